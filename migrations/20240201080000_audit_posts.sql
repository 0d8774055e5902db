-- Migration: audit_posts
-- Version: 20240201080000

-- UP
CREATE TABLE post_changes (
    id INTEGER PRIMARY KEY,
    post_id INTEGER NOT NULL,
    changed_at TEXT NOT NULL DEFAULT (datetime('now')),
    what TEXT NOT NULL
) STRICT;

CREATE TRIGGER posts_audit AFTER UPDATE ON posts
BEGIN
    INSERT INTO post_changes (post_id, what)
    VALUES (new.id, CASE WHEN old.status IS NOT new.status THEN 'status: ' || new.status ELSE 'text' END);
    UPDATE posts SET published_at = datetime('now')
    WHERE id = new.id AND new.status = 'published' AND published_at IS NULL;
END;

-- DOWN
DROP TRIGGER posts_audit;
DROP TABLE post_changes;
