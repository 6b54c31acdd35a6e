//! The room on the spool's disk: the reserve, and the cap while the disk is full.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use super::{
    super::reserve::{FullDisk, Reserve, disk_room},
    whose::{Folder, make_spool, skipped, start},
    *,
};

const MIB: u64 = 1 << 20;

/// A small file system of its own; `None`, and said, where nobody may mount.
struct SmallDisk(Folder);

impl SmallDisk {
    fn new(megabytes: u64) -> Option<Self> {
        let folder = Folder::new();
        let size = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path("")).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(folder));
        }
        skipped("a file system cannot be mounted here, which takes root");
        None
    }

    fn spool(&self) -> PathBuf {
        self.0.spool()
    }

    /// Takes all room but `left`, as another program does.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.0.path("somebody-else");
        let free = disk_room(&path).unwrap().free_bytes;
        fs::write(&path, vec![7; usize::try_from(free - left).unwrap()]).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path("")).status();
    }
}

#[test]
fn a_reserve_takes_up_room_and_gives_it_back() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let reserve = Reserve::new(&disk.spool(), 1 << 30);
    let before = reserve.disk_free_bytes().unwrap();
    assert!(reserve.take(false) && reserve.take(true));
    assert_eq!(reserve.bytes(), 4 * MIB);
    assert_eq!(before - reserve.disk_free_bytes().unwrap(), 4 * MIB);
    assert!(reserve.give_up() && !reserve.give_up());
    assert_eq!(reserve.disk_free_bytes().unwrap(), before);
}

#[test]
fn a_small_disk_has_a_small_reserve_that_it_can_take_again() {
    for megabytes in [4, 8, 16] {
        let Some(disk) = SmallDisk::new(megabytes) else { return };
        let reserve = Reserve::new(&disk.spool(), 1 << 30);
        assert_eq!(reserve.bytes(), megabytes * MIB / 4);
        assert!(reserve.take(false));
        let filled = disk.fill(0);
        assert!(reserve.give_up());
        assert!(!reserve.take(true), "what it gave up is not room to spare");
        fs::remove_file(filled).unwrap();
        assert!(reserve.take(true), "on {megabytes} MiB");
    }
}

#[test]
fn a_full_disk_is_asked_and_not_written_to() {
    let Some(disk) = SmallDisk::new(16) else { return };
    let reserve = Reserve::new(&disk.spool(), 1 << 30);
    let filled = disk.fill(6 * MIB);
    let folder = disk.0.path("");
    let changed = || fs::metadata(&folder).map(|folder| (folder.mtime(), folder.mtime_nsec())).unwrap();
    let before = changed();
    for _ in 0..50 {
        assert!(!reserve.take(true));
    }
    assert_eq!(changed(), before, "no file came and went");
    assert!(reserve.take(false), "without as much again it is room enough at the start");
    fs::remove_file(filled).unwrap();
}

#[test]
fn a_start_on_a_folder_that_is_not_there_yet_knows_its_disk() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let reserve = Reserve::new(&disk.0.path("not/yet/spool.db"), 1 << 30);
    assert_eq!(reserve.bytes(), 2 * MIB);
}

#[test]
fn a_disk_that_is_smaller_than_the_spool_may_grow_is_known() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let room = open::small_disk(&Place::File(disk.spool()), 1 << 30).unwrap();
    assert_eq!(room, 8 * MIB);
    assert_eq!(open::small_disk(&Place::File(disk.spool()), MIB), None);
    assert_eq!(open::small_disk(&Place::Memory, 1 << 30), None);
}

fn full(file_bytes: u64) -> (Folder, FullDisk, u64) {
    let folder = Folder::new();
    let reserve = Reserve::new(&folder.spool(), 64 * MIB);
    let reserve_bytes = reserve.bytes();
    (folder, FullDisk::new(file_bytes, &reserve), reserve_bytes)
}

#[test]
fn the_cap_of_a_full_disk_is_the_size_that_the_file_had() {
    let (_folder, full, reserve) = full(100 * MIB);
    assert_eq!(full.cap(100 * MIB, Some(reserve)), 100 * MIB);
    assert_eq!(full.cap(100 * MIB, Some(0)), 100 * MIB, "the log has what was the reserve");
    assert_eq!(full.cap(100 * MIB, None), 100 * MIB);
    // Given back, and free.
    assert_eq!(full.cap(40 * MIB, Some(60 * MIB + reserve)), 100 * MIB);
    // Given back, and taken by another.
    assert_eq!(full.cap(40 * MIB, Some(reserve)), 40 * MIB);
    assert_eq!(full.cap(40 * MIB, Some(20 * MIB + reserve)), 60 * MIB);
    // More room than there was: the end of it is for the reserve to find.
    assert_eq!(full.cap(100 * MIB, Some(500 * MIB)), 100 * MIB);
}

/// Seen: a backlog fell by 64 KiB each second while another program waited for every byte.
#[test]
fn the_cap_of_a_full_disk_never_creeps_though_another_takes_all_that_is_given_back() {
    let chunk = MIB / 4;
    let (_folder, full, _) = full(100 * MIB);
    let (mut file, mut used) = (100 * MIB, 100 * MIB);
    for _ in 0..100_000 {
        let cap = full.cap(file, Some(0));
        // The oldest goes for the newest.
        while used + chunk > cap {
            used -= chunk;
        }
        used += chunk;
        // What is unused beyond what is kept is given back, and another has it at once.
        file -= (file - used).saturating_sub(full.keep_bytes());
    }
    assert_eq!((file, full.cap(file, Some(0))), (100 * MIB, 100 * MIB));
    // Drained, it gives back what it has.
    used = 0;
    file -= (file - used).saturating_sub(full.keep_bytes());
    assert!(file <= 100 * MIB / 8);
}

/// The rows that lie in a spool's chunks.
fn rows_in(opened: &open::Opened) -> u64 {
    opened.store.ledger().unwrap().spooled
}

#[test]
fn an_older_file_is_brought_up_to_date_without_a_copy_where_there_is_no_room_for_one() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let v1 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/spools/v1.db");
    fs::copy(v1, disk.spool()).unwrap();
    let opened = start(&disk.spool()).unwrap();
    let migrated = opened.store.migrated().unwrap();
    assert_eq!((migrated.from, &migrated.copy, rows_in(&opened)), (1, &None, 200));
    assert!(!disk.0.path("spool.db.version-1").exists());
}

#[test]
fn an_older_file_on_a_full_disk_stays_as_it_is_until_there_is_room() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let v1 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/spools/v1.db");
    fs::copy(&v1, disk.spool()).unwrap();
    let filled = disk.fill(0);
    let Err(error) = start(&disk.spool()) else { panic!("it was opened") };
    assert!(error.to_string().contains("its disk is full"), "{error}");
    let left: Vec<_> = disk.0.names().into_iter().filter(|name| name.contains("damaged")).collect();
    assert_eq!(left, Vec::<String>::new(), "a full disk is no damage");
    fs::remove_file(filled).unwrap();
    let opened = start(&disk.spool()).unwrap();
    assert_eq!((opened.salvage.as_ref(), rows_in(&opened)), (None, 200));
}

#[test]
fn a_salvage_that_cannot_be_written_leaves_nothing_behind_and_is_done_once_it_can() {
    let Some(disk) = SmallDisk::new(8) else { return };
    make_spool(&disk.spool());
    let mut bytes = fs::read(disk.spool()).unwrap();
    bytes.truncate(9_000);
    fs::write(disk.spool(), &bytes).unwrap();
    let filled = disk.fill(0);
    assert!(start(&disk.spool()).is_err());
    assert!(disk.0.names().iter().all(|name| !name.contains("salvaged")), "{:?}", disk.0.names());
    assert_eq!(fs::read(disk.spool()).unwrap(), bytes);
    fs::remove_file(filled).unwrap();
    assert_eq!(fs::read(start(&disk.spool()).unwrap().salvage.unwrap().set_aside).unwrap(), bytes);
}

#[test]
fn a_spool_that_lost_its_file_on_a_full_disk_gets_it_back_once_there_is_room() {
    let Some(disk) = SmallDisk::new(16) else { return };
    let opened = start(&disk.spool()).unwrap();
    for id in 0..60 {
        super::whose::put(&opened.store, 1 + id, &format!("a{id}"), 2_000);
    }
    fs::remove_file(disk.spool()).unwrap();
    let filled = disk.fill(0);
    let again = || open::rescue(&opened.store, Durability::Normal, std::time::SystemTime::now());
    assert!(again().is_err());
    assert_eq!(disk.0.names(), ["somebody-else", "spool.db-shm", "spool.db-wal", "spool.db.lock"]);
    assert_eq!(rows_in(&opened), 120_000);
    fs::remove_file(filled).unwrap();
    assert_eq!(again().unwrap().unwrap().store.ledger().unwrap().spooled, 120_000);
}
