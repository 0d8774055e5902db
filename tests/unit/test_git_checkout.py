import subprocess
from pathlib import Path

import pytest
from support import needs_git

from migrated.daemon.watcher import git_checkout_in_progress


def git(home: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=home, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "db" / "migrations").mkdir(parents=True)
    return tmp_path


@needs_git
def test_index_lock_means_a_checkout_in_progress(repository: Path) -> None:
    directory = str(repository / "db" / "migrations")
    assert not git_checkout_in_progress(directory)

    (repository / ".git" / "index.lock").touch()
    assert git_checkout_in_progress(directory)


@needs_git
def test_linked_worktree_has_its_own_lock(repository: Path) -> None:
    git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    git(repository, "worktree", "add", "-q", "other")
    lock = Path(git(repository / "other", "rev-parse", "--absolute-git-dir")) / "index.lock"
    assert not git_checkout_in_progress(str(repository / "other"))

    lock.touch()
    assert git_checkout_in_progress(str(repository / "other"))
    assert not git_checkout_in_progress(str(repository / "db"))


@needs_git
def test_git_holds_the_index_lock_during_a_commit(repository: Path) -> None:
    """Git runs its pre-commit hook while it holds the lock, so the hook can list the lock file."""
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nls .git > seen\n")
    hook.chmod(0o755)
    (repository / "file").touch()
    git(repository, "add", "file")
    git(repository, "commit", "-qam", "one")

    assert "index.lock" in (repository / "seen").read_text().split()


def test_directory_outside_a_repository_has_no_checkout(tmp_path: Path) -> None:
    assert not git_checkout_in_progress(str(tmp_path))


def test_missing_directory_has_no_checkout(tmp_path: Path) -> None:
    assert not git_checkout_in_progress(str(tmp_path / "gone"))
