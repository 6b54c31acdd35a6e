//! Owns the versions of the spool's file: what each looked like, and how an older one becomes the present one. It never
//! touches a file of a later version: what that means only a later program knows.
//!
//! | version | made by | what changed |
//! | --- | --- | --- |
//! | 1 | 0.1.0 of November 2026 | |
//! | 2 | the next | tables `lane`, `acknowledged` and `spool`; a chunk, a dead letter and a count belong to a lane |
//!
//! A new version is a step in [`STEPS`], its tables in [`store::SCHEMA`], the tables before it in [`SCHEMAS`], a line
//! here, and a file in `tests/data/spools`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, Result};

use super::{rescue, whose, with_suffix};
use crate::spool::{
    reserve,
    store::{self, VERSION},
};

/// Room that is left on the disk when a copy is made before a migration, in bytes.
const ROOM_LEFT_BYTES: u64 = 16 << 20;

/// The tables of each version before the present one, from version 1 on.
const SCHEMAS: &[&str] = &["
CREATE TABLE chunk (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    received_ms INTEGER NOT NULL,
    state       INTEGER NOT NULL DEFAULT 0,
    encoding    INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    raw_bytes   INTEGER NOT NULL,
    crc         INTEGER NOT NULL,
    body_crc    INTEGER NOT NULL,
    body        BLOB NOT NULL
);
CREATE TABLE dead_letter (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    refused_ms INTEGER NOT NULL,
    payload    INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    message    TEXT NOT NULL,
    row        TEXT NOT NULL,
    replay     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX dead_letter_replay ON dead_letter (replay) WHERE replay = 1;
CREATE TABLE ledger (
    place  TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    n      INTEGER NOT NULL,
    PRIMARY KEY (place, reason)
) WITHOUT ROWID;
"];

/// What makes each version of the one before it, from version 1 on.
const STEPS: &[&str] = &["
ALTER TABLE chunk ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letter ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
CREATE TABLE lane (
    id     INTEGER PRIMARY KEY,
    name   TEXT NOT NULL,
    tenant TEXT NOT NULL,
    UNIQUE (name, tenant)
);
INSERT INTO lane (id, name, tenant) VALUES (0, 'default', '');
CREATE TABLE acknowledged (
    chunk    INTEGER PRIMARY KEY,
    acked_ms INTEGER NOT NULL,
    looks    INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE spool (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
ALTER TABLE ledger RENAME TO ledger_1;
CREATE TABLE ledger (
    lane   INTEGER NOT NULL DEFAULT 0,
    place  TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    n      INTEGER NOT NULL,
    PRIMARY KEY (lane, place, reason)
) WITHOUT ROWID;
INSERT INTO ledger (place, reason, n) SELECT place, reason, n FROM ledger_1;
DROP TABLE ledger_1;
"];

/// What an older file has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version that it had.
    pub from: i32,
    /// A copy of it as it was, if there was something in it, and room.
    pub copy: Option<PathBuf>,
}

/// Brings an older file to the present version, in one transaction, after a copy of it was made where there is something
/// to lose and the disk has room; `None` if it is of the present version.
///
/// # Errors
/// SQLite's; `SQLITE_CORRUPT` if its tables are not those of its version. Nothing has changed then.
pub(super) fn migrate(db: &Connection, path: &Path) -> Result<Option<Migrated>> {
    let from: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let before = usize::try_from(from).ok().and_then(|from| from.checked_sub(1));
    let Some((before, schema)) = before.and_then(|at| Some((at, SCHEMAS.get(at)?))) else { return Ok(None) };
    compare(db, schema)?;
    let holds = db.query_row("SELECT 1 FROM chunk UNION ALL SELECT 1 FROM dead_letter", [], |_| Ok(()));
    let copy = if holds.optional()?.is_some() { copy(db, path, from) } else { None };
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = STEPS.iter().skip(before).try_for_each(|step| db.execute_batch(step));
    let done = done
        .and_then(|()| store::name_the_spool(db))
        .and_then(|()| db.pragma_update(None, "user_version", VERSION))
        .and_then(|()| db.execute_batch("COMMIT"));
    if done.is_err() {
        let _ = db.execute_batch("ROLLBACK");
    }
    done.map(|()| Some(Migrated { from, copy }))
}

/// `spool.db.version-1`: where the copy of an older file lies. One that is there of an earlier migration is replaced.
fn copy_name(path: &Path, version: i32) -> PathBuf {
    with_suffix(path, &format!(".version-{version}"))
}

/// Copies the file as it is; `None` if that cannot be done, which is no reason not to go on.
fn copy(db: &Connection, path: &Path, version: i32) -> Option<PathBuf> {
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).ok();
    let bytes = pragma("page_count")?.checked_mul(pragma("page_size")?)?;
    let needed = u64::try_from(bytes).ok()?.saturating_add(ROOM_LEFT_BYTES);
    if reserve::disk_room(whose::folder_of(path))?.free_bytes < needed {
        return None;
    }
    let copy = copy_name(path, version);
    let part = with_suffix(&copy, ".part");
    let write = || -> io::Result<()> {
        rescue::copy_to(db, &part).map_err(io::Error::other)?;
        fs::rename(&part, &copy)
    };
    match write() {
        Ok(()) => Some(copy),
        Err(_) => {
            let _ = super::remove(&part);
            None
        }
    }
}

/// Whether the tables are those of a schema: by the names and types of their columns, for the text that made them says
/// more, and what came later is appended.
///
/// # Errors
/// SQLite's; `SQLITE_CORRUPT` if they are not.
pub(in crate::spool) fn compare(db: &Connection, schema: &str) -> Result<()> {
    let model = Connection::open_in_memory()?;
    model.execute_batch(schema)?;
    let there = tables(db)?;
    for (table, columns) in tables(&model)? {
        match there.get(&table) {
            Some(there) if *there == columns => {}
            Some(_) => return Err(store::damage(format!("its table {table} is not that of a spool"))),
            None => return Err(store::damage(format!("its table {table} is gone"))),
        }
    }
    Ok(())
}

/// The columns of each table, each with its type.
fn tables(db: &Connection) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let sql = "SELECT t.name, c.name, upper(c.type) FROM sqlite_master AS t, pragma_table_info(t.name) AS c
               WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'";
    let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        tables.entry(row.get(0)?).or_default().insert(row.get(1)?, row.get(2)?);
    }
    Ok(tables)
}
