-- Migration: create_posts
-- Version: 20240115093000

-- UP
CREATE TABLE posts (
    id INTEGER PRIMARY KEY,
    author_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    title TEXT NOT NULL,
    body TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT 'draft',
    published_at TEXT
) STRICT;

-- Only what is published is ever listed by date.
CREATE INDEX posts_by_date ON posts (published_at) WHERE status = 'published';

INSERT INTO users (email, name) VALUES ('ada@example.org', 'Ada; the first');
INSERT INTO posts (author_id, title, body) VALUES (1, 'Hello', 'A text -- with dashes; and semicolons.');

-- DOWN
DROP TABLE posts;
DELETE FROM users WHERE email = 'ada@example.org';
