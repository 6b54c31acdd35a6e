//! A file of every version that was ever released is opened; one of a later version is not touched.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use super::{
    whose::{Folder, make_spool, put, start},
    *,
};
use crate::spool::{
    inspect::Inspector,
    open::OpenError,
    store::{Loaded, VERSION},
};

/// A file that an older program left: see `tests/data/spools`.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/spools").join(name)
}

/// The names of the rows in all chunks.
fn names(store: &store::Store) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for meta in store.scan(None, false, 1_000).unwrap() {
        let Some(Loaded::Intact(_, chunk)) = store.load(meta.id).unwrap() else { panic!("{meta:?}") };
        for row in chunk.open().unwrap().as_ref().iter() {
            let row: serde_json::Value = serde_json::from_slice(row).unwrap();
            names.insert(row["metricName"].as_str().unwrap().to_owned());
        }
    }
    names
}

fn version(path: &Path) -> i32 {
    Connection::open(path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// What is in each `vN.db`.
fn expect_all_that_was_left(store: &store::Store) {
    let ledger = store.ledger().unwrap();
    assert_eq!(ledger.unaccounted(), 0);
    assert_eq!((ledger.received, ledger.spooled, ledger.delivered), (212, 200, 8));
    assert_eq!((ledger.refused["metricName"], ledger.skipped["value_nan"]), (3, 1));
    assert_eq!(ledger.malformed["line_fields"], 1);
    let expected: BTreeSet<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .flat_map(|c| (0..40).map(move |i| format!("waits.{c}.{i}")))
        .collect();
    assert_eq!(names(store), expected);
    assert_eq!(store.last_id().unwrap(), 6, "a number is not given twice");
    assert_eq!(store.last_dead_letters().unwrap().len(), 1);
    let letters: u32 =
        store.db().query_row("SELECT count(*) FROM dead_letter", [], |row| row.get(0)).unwrap();
    assert_eq!(letters, 3);
}

#[test]
fn a_file_of_each_older_version_is_brought_up_to_date_with_all_that_is_in_it() {
    for from in 1..VERSION {
        let folder = Folder::new();
        fs::copy(kept(&format!("v{from}.db")), folder.spool()).unwrap();
        fs::set_permissions(folder.spool(), fs::Permissions::from_mode(0o644)).unwrap();
        let before = fs::read(folder.spool()).unwrap();

        let opened = start(&folder.spool()).unwrap();
        assert_eq!(opened.salvage, None, "an older file is no damaged one");
        let migrated = opened.store.migrated().unwrap().clone();
        assert_eq!(migrated.from, from);
        expect_all_that_was_left(&opened.store);

        // It works, and is opened again as any other.
        put(&opened.store, 7, "new", 5);
        let uuid = opened.store.uuid().unwrap();
        drop(opened);
        let opened = start(&folder.spool()).unwrap();
        assert_eq!((opened.salvage, opened.store.migrated()), (None, None));
        assert_eq!((opened.store.uuid().unwrap(), opened.store.ledger().unwrap().spooled), (uuid, 205));
        drop(opened.store);
        assert_eq!(version(&folder.spool()), VERSION);
        assert_eq!(fs::metadata(folder.spool()).unwrap().permissions().mode() & 0o777, 0o600);

        // What it was lies beside it, for the way back.
        let copy = migrated.copy.unwrap();
        assert_eq!(copy, folder.path(&format!("spool.db.version-{from}")));
        assert_eq!(version(&copy), from);
        let rows = |path: &Path| -> u32 {
            let db = Connection::open(path).unwrap();
            db.query_row("SELECT sum(rows) FROM chunk", [], |row| row.get(0)).unwrap()
        };
        fs::write(folder.path("before"), before).unwrap();
        assert_eq!(rows(&copy), rows(&folder.path("before")));
        assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// What is released writes this file; a change that reads it otherwise needs a new version.
#[test]
fn a_file_of_the_present_version_is_opened_as_it_is_with_all_that_is_in_it() {
    let folder = Folder::new();
    fs::copy(kept(&format!("v{VERSION}.db")), folder.spool()).unwrap();
    let opened = start(&folder.spool()).unwrap();
    assert_eq!((opened.salvage, opened.store.migrated()), (None, None));
    expect_all_that_was_left(&opened.store);
    assert_eq!(
        folder.names(),
        ["spool.db", "spool.db-shm", "spool.db-wal", "spool.db.lock"],
        "no copy was made"
    );
}

#[test]
fn a_file_of_version_1_whose_log_alone_says_what_it_is_is_brought_up_to_date() {
    // Its daemon was killed before the first checkpoint.
    let folder = Folder::new();
    fs::copy(kept("v1-killed.db"), folder.spool()).unwrap();
    fs::copy(kept("v1-killed.db-wal"), folder.path("spool.db-wal")).unwrap();
    let opened = start(&folder.spool()).unwrap();
    assert_eq!(opened.salvage, None);
    assert_eq!(opened.store.migrated().unwrap().from, 1);
    assert_eq!((opened.store.ledger().unwrap().spooled, names(&opened.store).len()), (20, 20));
}

#[test]
fn an_older_file_with_nothing_in_it_is_not_copied() {
    let folder = Folder::new();
    fs::copy(kept("v1.db"), folder.spool()).unwrap();
    let db = Connection::open(folder.spool()).unwrap();
    db.execute_batch("DELETE FROM chunk; DELETE FROM dead_letter; DELETE FROM ledger").unwrap();
    drop(db);
    let opened = start(&folder.spool()).unwrap();
    assert_eq!(opened.store.migrated().unwrap().copy, None);
    assert_eq!(folder.names(), ["spool.db", "spool.db-shm", "spool.db-wal", "spool.db.lock"]);
}

#[test]
fn an_older_file_that_is_damaged_is_set_aside_and_salvaged() {
    let folder = Folder::new();
    let mut bytes = fs::read(kept("v1.db")).unwrap();
    bytes.truncate(bytes.len() - 8_192);
    fs::write(folder.spool(), &bytes).unwrap();
    let opened = start(&folder.spool()).unwrap();
    let salvage = opened.salvage.unwrap();
    assert_eq!(fs::read(&salvage.set_aside).unwrap(), bytes);
    assert_eq!(opened.store.ledger().unwrap().unaccounted(), 0);
    drop(opened.store);
    assert_eq!(version(&folder.spool()), VERSION);

    // Its tables are not those of its version.
    let folder = Folder::new();
    fs::copy(kept("v1.db"), folder.spool()).unwrap();
    Connection::open(folder.spool())
        .unwrap()
        .execute_batch("ALTER TABLE dead_letter RENAME COLUMN message TO words")
        .unwrap();
    let opened = start(&folder.spool()).unwrap();
    let salvage = opened.salvage.unwrap();
    assert!(salvage.cause.contains("dead_letter"), "{}", salvage.cause);
    assert_eq!((salvage.rows, salvage.lost), (200, Some(0)));
    assert_eq!(names(&opened.store).len(), 200);
}

#[test]
fn a_file_of_a_later_version_is_refused_and_not_touched() {
    let folder = Folder::new();
    make_spool(&folder.spool());
    let later = format!(
        "PRAGMA user_version = {}; ALTER TABLE chunk ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
        VERSION + 1
    );
    Connection::open(folder.spool()).unwrap().execute_batch(&later).unwrap();
    fs::remove_file(folder.path("spool.db.lock")).unwrap();
    let before = folder.content();
    let Err(error) = start(&folder.spool()) else { panic!("it was opened") };
    assert!(matches!(error, OpenError::Later { version, .. } if version == VERSION + 1), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("made by a later version") && text.contains("start the later version again"),
        "{text}"
    );
    assert_eq!(folder.content(), before);

    // Neither if its log alone says so.
    let folder = Folder::new();
    make_spool(&folder.spool());
    let db = Connection::open(folder.spool()).unwrap();
    db.execute_batch("PRAGMA user_version = 99").unwrap();
    let before = folder.content();
    assert!(before["spool.db-wal"].len() > 8_192);
    assert!(matches!(start(&folder.spool()), Err(OpenError::Later { version: 99, .. })));
    let names: Vec<_> = before.into_keys().collect();
    assert_eq!(folder.names(), names);
    drop(db);
}

#[test]
fn tables_are_told_by_their_columns_and_not_by_the_text_that_made_them() {
    let folder = Folder::new();
    make_spool(&folder.spool());
    let db = Connection::open(folder.spool()).unwrap();
    db.execute_batch(
        "CREATE TABLE other (   id integer PRIMARY KEY, -- spelt in another way, and in another order
            name text NOT NULL, tenant TEXT NOT NULL, UNIQUE (name, tenant));
         INSERT INTO other SELECT * FROM lane; DROP TABLE lane; ALTER TABLE other RENAME TO lane;
         ANALYZE; CREATE TABLE of_an_operator (x); DROP INDEX dead_letter_replay",
    )
    .unwrap();
    drop(db);
    let opened = start(&folder.spool()).unwrap();
    assert_eq!(opened.salvage, None);
    assert_eq!(opened.store.ledger().unwrap().spooled, 5);
}

#[test]
fn a_spool_has_a_name_of_its_own_that_it_keeps() {
    let (one, two) = (Folder::new(), Folder::new());
    let uuid = |folder: &Folder| start(&folder.spool()).unwrap().store.uuid().unwrap();
    let first = uuid(&one);
    assert_eq!(first.len(), 36);
    assert_eq!((first, 4), (uuid(&one), uuid(&two).matches('-').count()));
    assert_ne!(uuid(&one), uuid(&two));
    // A salvage keeps it too, as far as it can be read.
    let kept = uuid(&one);
    Connection::open(one.spool())
        .unwrap()
        .execute_batch("UPDATE ledger SET n = n + 1; INSERT INTO ledger (place, n) VALUES ('received', 9)")
        .unwrap();
    let opened = start(&one.spool()).unwrap();
    assert!(opened.salvage.is_some());
    assert_eq!(opened.store.uuid().unwrap(), kept);
}

#[test]
fn a_lane_keeps_its_number_and_its_rows_through_damage() {
    let folder = Folder::new();
    let opened = start(&folder.spool()).unwrap();
    let store = &opened.store;
    assert_eq!(store.lane("default", "").unwrap(), store::LANE_DEFAULT);
    let lane = store.lane("billing", "acme").unwrap();
    assert_eq!(store.lane("billing", "acme").unwrap(), lane);
    assert_ne!(store.lane("billing", "other").unwrap(), lane);
    let chunk = crate::core::chunk::Sealer::new(Encoding::Deflate).seal(&rows("theirs", 5).into());
    store.insert_in(lane, 1, &chunk, 0).unwrap();
    store.count_in(lane, "spooled", "", 5).unwrap();
    store.count("received", "", 5).unwrap();
    assert!(matches!(store.load(1).unwrap(), Some(Loaded::Intact(..))));
    // A flipped lane would send rows to another's tenant.
    store.db().execute("UPDATE chunk SET lane = 0", []).unwrap();
    assert!(matches!(store.load(1).unwrap(), Some(Loaded::Damaged(_))));
    store.db().execute("UPDATE chunk SET lane = ?1", [lane]).unwrap();
    store
        .db()
        .execute(
            "INSERT INTO ledger (place, n) VALUES ('received', 1) ON CONFLICT DO UPDATE SET n = n + 1",
            [],
        )
        .unwrap();
    drop(opened);
    let opened = start(&folder.spool()).unwrap();
    assert_eq!(opened.salvage.unwrap().rows, 5);
    assert_eq!(opened.store.lane("billing", "acme").unwrap(), lane);
    let there: u32 = opened.store.db().query_row("SELECT lane FROM chunk", [], |row| row.get(0)).unwrap();
    assert_eq!(there, lane);
}

#[test]
fn a_tool_reads_every_version_but_a_later_one() {
    let folder = Folder::new();
    fs::copy(kept("v1.db"), folder.spool()).unwrap();
    let before = fs::read(folder.spool()).unwrap();
    let inspector = Inspector::open(&folder.spool()).unwrap();
    let info = inspector.info().unwrap();
    assert_eq!((info.version, info.rows, info.dead_letters), (1, 200, (3, 0)));
    assert_eq!(inspector.verify().unwrap(), Vec::<String>::new());
    let mut rows = 0;
    let damaged = inspector
        .rows(None, |_| -> rusqlite::Result<()> {
            rows += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((rows, damaged), (200, 0));
    drop(inspector);
    assert_eq!(fs::read(folder.spool()).unwrap(), before, "it only reads");

    Connection::open(folder.spool()).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let Err(error) = Inspector::open(&folder.spool()) else { panic!("it was opened") };
    assert!(error.to_string().contains("made by a later version"), "{error}");
    Connection::open(folder.spool()).unwrap().execute_batch("PRAGMA application_id = 99").unwrap();
    let Err(error) = Inspector::open(&folder.spool()) else { panic!("it was opened") };
    assert!(error.to_string().contains("is no spool"), "{error}");
}
