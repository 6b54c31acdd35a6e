//! A damaged file never prevents a start, never loops, and costs only what cannot be read.

use std::collections::BTreeSet;

use super::*;

const CHUNKS: u32 = 24;
const ROWS: u32 = 120;

/// A closed spool with chunks, some over several pages, and a few dead letters; with its bytes.
fn closed() -> (World, Vec<u8>) {
    let mut world = World::new(|options| options.encoding = Encoding::Plain);
    for i in 0..CHUNKS {
        world.append(&format!("c{i}"), if i % 2 == 0 { ROWS } else { 3 });
    }
    let bad = world.append("bad", 5);
    world.settle(&[bad.id], refused("no"));
    let good = world.append("good", 7);
    world.settle(&[good.id], DELIVERED);
    world.close();
    let bytes = std::fs::read(world.path()).unwrap();
    (world, bytes)
}

fn spooled() -> u64 {
    u64::from(CHUNKS / 2 * ROWS + CHUNKS / 2 * 3)
}

impl World {
    fn salvages(&self) -> Vec<open::Salvage> {
        let salvage = |notice| if let Notice::Salvaged(salvage) = notice { Some(salvage) } else { None };
        self.said().into_iter().filter_map(salvage).collect()
    }

    /// Reads every chunk, as the forwarder does; the names of the rows.
    fn read_all(&self) -> BTreeSet<String> {
        for _ in 0..3 {
            let Ok(metas) = wait(self.spool().chunks()) else { continue };
            let Ok(chunks) = wait(self.spool().load(metas.iter().map(|meta| meta.id).collect())) else {
                continue;
            };
            let mut names = BTreeSet::new();
            for chunk in &chunks {
                for row in chunk.open().expect("what is loaded is whole").as_ref().iter() {
                    let row: serde_json::Value = serde_json::from_slice(row).expect("a whole row");
                    names.insert(row["metricName"].as_str().unwrap().to_owned());
                }
            }
            assert_eq!(names.len() as u64, self.ledger().spooled);
            return names;
        }
        panic!("it never reads: {:#?}", self.said());
    }

    /// Starts on `bytes`, reads all, and starts again: the law holds all the way, and the second start is clean.
    fn survive(&mut self, bytes: &[u8], what: &str) -> u64 {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        std::fs::write(self.path(), bytes).unwrap();
        self.said.lock().unwrap().clear();
        self.try_open().unwrap_or_else(|error| panic!("{what}: {error}"));
        self.read_all();
        for salvage in self.salvages() {
            assert!(salvage.set_aside.exists(), "{what}: {salvage:?}");
        }
        if let Some(open::Salvage { lost: Some(lost), rows, .. }) = self.salvages().first() {
            assert_eq!(lost + rows, spooled(), "{what}");
            assert!(self.ledger().dropped.get("damaged").copied().unwrap_or(0) >= *lost, "{what}");
        }
        self.decode(4, 0);
        let batch = Arc::new(Batch::new(rows("after", 4), now_ms()));
        // A page that is only written to may show its damage now: then the new file takes it.
        let appended = (0..3).any(|_| wait(self.spool().append(batch.clone())).is_ok());
        assert!(appended, "{what}: {:#?}", self.said());
        let settled = (0..3).any(|_| {
            let newest =
                wait(self.spool().chunks()).ok().and_then(|mut chunks| chunks.pop()).map(|meta| meta.id);
            wait(self.spool().settle(newest.into_iter().collect(), DELIVERED)).is_ok()
        });
        assert!(settled, "{what}: {:#?}", self.said());
        let read = self.read_all().len() as u64;
        self.ledger_on_disk();
        assert_eq!(self.spool().status().letters.count, self.dead_letters().len() as u64, "{what}");
        self.close();
        self.said.lock().unwrap().clear();
        self.open();
        assert_eq!(self.read_all().len() as u64, read, "{what}");
        assert_eq!(self.said(), [], "{what}: the second start is clean");
        self.close();
        read
    }
}

#[test]
fn a_file_cut_anywhere_is_salvaged() {
    let (mut world, bytes) = closed();
    let mut read = 0;
    // With less than 72 bytes it does not say whose it is.
    let cuts: Vec<_> =
        (1..24).map(|i| bytes.len() * i / 24).chain([72, 99, 100, 4_095, 8_191, 8_192, 8_193]).collect();
    for &cut in &cuts {
        read += world.survive(&bytes[..cut], &format!("cut at {cut} of {}", bytes.len()));
    }
    assert!(read > 0, "nothing was ever salvaged");
    assert_eq!(world.survive(&bytes, "whole"), spooled());
}

#[test]
fn flipped_bytes_in_any_page_cost_what_cannot_be_read_and_no_more() {
    let (mut world, bytes) = closed();
    let pages = bytes.len() / 8_192;
    let mut whole = 0;
    let mut tried = 0;
    for page in 0..pages {
        for at in [page * 7 % 90, 300 + page * 131 % 7_800] {
            let mut flipped = bytes.clone();
            for byte in &mut flipped[page * 8_192 + at..][..4] {
                *byte ^= 0x5a;
            }
            let read = world.survive(&flipped, &format!("flipped at {at} of page {page}"));
            tried += 1;
            whole += u64::from(read >= spooled() - u64::from(ROWS));
        }
    }
    assert!(whole * 2 > tried, "one flip mostly costs one chunk at most: {whole} of {tried}");
}

#[test]
fn a_file_that_says_it_is_ours_and_is_not_whole_is_set_aside() {
    let (mut world, bytes) = closed();
    for sql in [
        "DROP TABLE ledger",
        "ALTER TABLE chunk RENAME COLUMN crc TO car",
        "UPDATE ledger SET n = n + 1 WHERE place = 'delivered'",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -7",
        "PRAGMA user_version = 1000000000",
    ] {
        std::fs::write(world.path(), &bytes).unwrap();
        Connection::open(world.path()).unwrap().execute_batch(sql).unwrap();
        let bytes = std::fs::read(world.path()).unwrap();
        world.survive(&bytes, sql);
        // Told by the files, for the second start said nothing of it.
        let aside = std::fs::read_dir(world.folder.path()).unwrap();
        let aside = aside.filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("spool.db.damaged-")
        });
        assert!(aside.count() > 0, "{sql}");
    }
}

#[test]
fn a_salvage_that_was_cut_short_is_done_again_or_finished() {
    let (mut world, bytes) = closed();
    // Before the damaged file has moved, what is salvaged may be anything.
    let cut = &bytes[..bytes.len() / 2];
    let read = world.survive(cut, "cut");
    std::fs::write(world.path(), cut).unwrap();
    std::fs::write(world.folder.path().join("spool.db.salvaged"), "half of it").unwrap();
    world.open();
    assert_eq!(world.read_all().len() as u64, read);
    world.close();
    // After it has moved, it is whole, and the log beside it is of the damaged file.
    std::fs::rename(world.path(), world.folder.path().join("spool.db.salvaged")).unwrap();
    std::fs::write(world.folder.path().join("spool.db-wal"), "of another file").unwrap();
    world.said.lock().unwrap().clear();
    world.open();
    assert_eq!(world.read_all().len() as u64, read);
    assert_eq!(world.said(), []);
}

#[test]
fn damage_under_a_running_spool_is_met_and_everything_goes_on() {
    let (mut world, _) = closed();
    world.open();
    let before = world.ledger();
    world.decode(11, 2);
    // Pages of several leaves, so that there is something to read between two that cannot be.
    let file = std::fs::OpenOptions::new().write(true).open(world.path()).unwrap();
    let garbage = vec![0xa5; 8_192];
    let bytes = file.metadata().unwrap().len();
    for at in (9 * 8_192..bytes).step_by(9 * 8_192) {
        std::os::unix::fs::FileExt::write_all_at(&file, &garbage, at).unwrap();
    }
    let ids: Vec<_> = (1..=CHUNKS.into()).collect();
    // The upkeep may have met it first, where it read one of these pages.
    let loaded = wait(world.spool().load(ids));
    assert!(loaded == Err(SpoolError::Replaced) || loaded == Ok(vec![]), "{loaded:?}");
    let [salvage] = &world.salvages()[..] else { panic!("{:#?}", world.said()) };
    assert_eq!(salvage.rows + salvage.lost.unwrap(), before.spooled);
    assert!(salvage.rows > 0 && salvage.lost.unwrap() > 0, "{salvage:?}");
    let after = world.ledger();
    assert_eq!((after.open, after.received), (11, before.received + 13), "what is in hand is not forgotten");
    assert_eq!(after.dropped["damaged"], salvage.lost.unwrap());
    assert_eq!((after.delivered, &after.refused), (before.delivered, &before.refused));
    assert_eq!(world.read_all().len() as u64, salvage.rows);
    wait(world.spool().append(Arc::new(Batch::new(rows("hand", 11), now_ms())))).unwrap();
    let now = world.ledger();
    assert_eq!((now.open, now.spooled), (0, salvage.rows + 11));
    world.ledger_on_disk();
    world.crash();
    world.open();
    assert_eq!(world.ledger(), now);
}
