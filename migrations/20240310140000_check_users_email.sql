-- Migration: check_users_email
-- Version: 20240310140000
--
-- A table rebuild, in the order that SQLite's manual gives: new table, copy, drop, rename.
-- posts refers to users with ON DELETE CASCADE: with foreign keys enforced, DROP TABLE would
-- delete every post. They are off while a migration runs, and checked before it is committed.

-- UP
CREATE TABLE users_new (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL UNIQUE CHECK (email LIKE '_%@_%'),
    name TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (datetime('now'))
) STRICT;
INSERT INTO users_new (id, email, name, created_at) SELECT id, email, name, created_at FROM users;
DROP TABLE users;
ALTER TABLE users_new RENAME TO users;

-- DOWN
CREATE TABLE users_old (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (datetime('now'))
) STRICT;
INSERT INTO users_old (id, email, name, created_at) SELECT id, email, name, created_at FROM users;
DROP TABLE users;
ALTER TABLE users_old RENAME TO users;
