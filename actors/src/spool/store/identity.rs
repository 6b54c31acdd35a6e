//! The table `spool`: the file's own name, and the tenant that had it first.

use rusqlite::{Connection, Result};

use super::Store;

/// Under which key the tenant of [`LANE_DEFAULT`] is kept.
const FIRST_TENANT: &str = "tenant";

impl Store {
    /// The name that this spool was given when it was made, which no other has.
    pub fn uuid(&self) -> Result<String> {
        self.db.query_row("SELECT value FROM spool WHERE key = 'uuid'", [], |row| row.get(0))
    }

    /// Sets what is known of the file as a whole.
    pub fn set_of_spool(&self, key: &str, value: &str) -> Result<()> {
        let sql = "INSERT INTO spool (key, value) VALUES (?1, ?2)
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.db.execute(sql, [key, value]).map(|_| ())
    }

    /// The tenant of [`super::LANE_DEFAULT`]: the first that ever had this spool, which is `now` if there was none.
    pub fn first_tenant(&self, now: &str) -> Result<String> {
        self.db.execute("INSERT OR IGNORE INTO spool (key, value) VALUES (?1, ?2)", [FIRST_TENANT, now])?;
        self.db.query_row("SELECT value FROM spool WHERE key = ?1", [FIRST_TENANT], |row| row.get(0))
    }
}

/// Gives a new spool, or one that had none, its name.
pub(in crate::spool) fn name_the_spool(db: &Connection) -> Result<()> {
    // SQLite's own random bytes, which it seeds from the system.
    let bytes: Vec<u8> = db.query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
    let mut uuid = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        // As RFC 9562 marks random ones: version 4.
        let byte = match at {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
        uuid.push_str(&format!("{dash}{byte:02x}"));
    }
    db.execute("INSERT OR IGNORE INTO spool (key, value) VALUES ('uuid', ?1)", [uuid]).map(|_| ())
}
