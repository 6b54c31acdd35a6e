//! The table `lane`: the numbers of destinations with their tenants.

use rusqlite::{Result, params};

use super::Store;
pub use crate::core::queue::LaneNumber;

/// The lane of the first tenant that had this spool; what an older version left is its own too. A number belongs to its
/// name and tenant for ever, never to the order of the configuration.
pub const LANE_DEFAULT: LaneNumber = 0;

/// The name of every lane of the daemon's one destination.
const DESTINATION: &str = "default";

impl Store {
    /// The lanes beside [`LANE_DEFAULT`], each with its tenant.
    pub fn tenants(&self) -> Result<Vec<(LaneNumber, String)>> {
        let sql = "SELECT id, tenant FROM lane WHERE id > 0 AND tenant <> ''";
        self.db.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// The number of a tenant's lane, which is made if it is new.
    pub fn lane_of(&self, tenant: &str) -> Result<LaneNumber> {
        self.lane(DESTINATION, tenant)
    }

    /// Takes the lane of a tenant over from another file, under the number that it has there.
    pub fn set_lane(&self, id: LaneNumber, tenant: &str) -> Result<()> {
        if id == LANE_DEFAULT {
            self.first_tenant(tenant).map(drop)
        } else {
            self.copy_lane(id, DESTINATION, tenant)
        }
    }

    /// Whether it is known whose the rows of a lane are.
    pub fn has_lane(&self, id: LaneNumber) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM lane WHERE id = ?1 AND (id = 0 OR tenant <> '')")?.exists([id])
    }

    /// The number of the lane of this name and tenant, which is made if it is new.
    pub fn lane(&self, name: &str, tenant: &str) -> Result<LaneNumber> {
        self.db.execute(
            "INSERT INTO lane (name, tenant) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            [name, tenant],
        )?;
        let sql = "SELECT id FROM lane WHERE name = ?1 AND tenant = ?2";
        self.db.query_row(sql, [name, tenant], |row| row.get(0))
    }

    /// Takes a lane over from another file, under the number that it has there.
    pub(in crate::spool) fn copy_lane(&self, id: LaneNumber, name: &str, tenant: &str) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO lane (id, name, tenant) VALUES (?1, ?2, ?3)";
        self.db.execute(sql, params![id, name, tenant]).map(|_| ())
    }
}
