//! A spool that loses its file, its log, its lock or its folder while it is open is told so.

use std::fs;

use super::{
    whose::{Folder, put, skipped, start},
    *,
};
use crate::spool::open::{Amiss, OpenError, Opened, Rescued, lock, rescue};

/// A spool with something in its log, after a first look that found nothing amiss.
fn opened(folder: &Folder) -> Opened {
    let opened = start(&folder.spool()).unwrap();
    put(&opened.store, 1, "a", 50);
    assert_eq!(opened.store.still_ours(), Ok(()));
    assert_eq!(opened.store.still_ours(), Ok(()));
    opened
}

#[test]
fn a_spool_in_use_is_still_ours_whatever_is_written_and_given_back() {
    let folder = Folder::new();
    let opened = opened(&folder);
    for round in 0..6 {
        for id in 0..20 {
            put(&opened.store, 2 + round * 20 + id, &format!("r{round}.{id}"), 2_000);
        }
        assert_eq!(opened.store.still_ours(), Ok(()));
        let ids: Vec<_> = opened.store.scan(None, false, 1_000).unwrap().iter().map(|meta| meta.id).collect();
        opened.store.remove(&ids).unwrap();
        opened.store.give_back(0, 1_000).unwrap();
        opened.store.checkpoint().unwrap();
        // It grows again before the next look, in its log only.
        put(&opened.store, 10_000 + round, "more", 2_000);
        assert_eq!(opened.store.still_ours(), Ok(()));
    }
}

#[test]
fn a_file_that_is_deleted_or_replaced_while_it_is_open_is_noticed() {
    let folder = Folder::new();
    let opened = opened(&folder);
    fs::rename(folder.spool(), folder.path("away")).unwrap();
    assert_eq!(opened.store.still_ours(), Err(Amiss::FileGone(folder.spool())));
    assert!(!opened.store.guard().unwrap().has_its_name());
    fs::write(folder.spool(), "another").unwrap();
    assert_eq!(opened.store.still_ours(), Err(Amiss::FileReplaced(folder.spool())));
    assert!(!opened.store.guard().unwrap().has_its_name());
    fs::rename(folder.path("away"), folder.spool()).unwrap();
    assert_eq!(opened.store.still_ours(), Ok(()), "and its return too");
}

#[test]
fn a_file_that_is_cut_while_it_is_open_is_noticed() {
    let folder = Folder::new();
    let opened = opened(&folder);
    opened.store.checkpoint().unwrap();
    assert_eq!(opened.store.still_ours(), Ok(()));
    let file = fs::OpenOptions::new().write(true).open(folder.spool()).unwrap();
    file.set_len(8_192).unwrap();
    assert_eq!(opened.store.still_ours(), Err(Amiss::FileCut(folder.spool())));
}

#[test]
fn a_log_that_is_removed_while_it_is_open_is_noticed() {
    for suffix in ["-wal", "-shm"] {
        let folder = Folder::new();
        let opened = opened(&folder);
        let path = open::with_suffix(&folder.spool(), suffix);
        fs::remove_file(&path).unwrap();
        assert_eq!(opened.store.still_ours(), Err(Amiss::LogGone(path.clone())));
        fs::write(&path, "").unwrap();
        assert_eq!(opened.store.still_ours(), Err(Amiss::LogGone(path)));
    }
}

#[test]
fn a_folder_that_is_gone_is_noticed() {
    let folder = Folder::new();
    fs::create_dir(folder.path("volume")).unwrap();
    let opened = start(&folder.path("volume/spool.db")).unwrap();
    assert_eq!(opened.store.still_ours(), Ok(()));
    fs::rename(folder.path("volume"), folder.path("elsewhere")).unwrap();
    assert_eq!(opened.store.still_ours(), Err(Amiss::FolderGone(folder.path("volume"))));
    // As below a mount point that was unmounted.
    fs::create_dir(folder.path("volume")).unwrap();
    let gone = opened.store.still_ours().unwrap_err();
    assert_eq!(gone, Amiss::FileGone(folder.path("volume/spool.db")));
    assert!(gone.is_of_the_content());
}

#[test]
fn a_folder_that_was_mounted_again_read_only_is_noticed() {
    let folder = Folder::new();
    let volume = folder.path("volume");
    fs::create_dir(&volume).unwrap();
    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new("mount").args(arguments).arg(&volume).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !mount(&["-t", "tmpfs", "tmpfs"]) {
        skipped("a file system cannot be mounted here, which takes root");
        return;
    }
    let opened = start(&volume.join("spool.db")).unwrap();
    let before = opened.store.still_ours();
    // Refused as long as a file is open for writing, as it would be on a disk that fails; so from without.
    let read_only = mount(&["-o", "bind"]) || mount(&["--bind", volume.to_str().unwrap()]);
    let read_only = read_only && mount(&["-o", "remount,bind,ro"]);
    let after = opened.store.still_ours();
    drop(opened);
    for _ in 0..2 {
        let _ = std::process::Command::new("umount").arg("-l").arg(&volume).output();
    }
    assert_eq!(before, Ok(()));
    if read_only {
        assert_eq!(after, Err(Amiss::FolderReadOnly(volume)));
    } else {
        skipped("nothing can be mounted read-only here");
    }
}

#[test]
fn a_lock_that_is_removed_is_noticed_and_taken_again_by_one_of_two() {
    let folder = Folder::new();
    let opened = opened(&folder);
    let path = folder.path("spool.db.lock");
    fs::remove_file(&path).unwrap();
    assert_eq!(opened.store.still_ours(), Err(Amiss::LockGone(path)));
    let again = lock(&folder.spool()).unwrap();
    // The old lock still counts for nothing, and the new one for all.
    assert!(matches!(lock(&folder.spool()), Err(OpenError::Held { .. })));
    drop(opened);
    assert!(matches!(start(&folder.spool()), Err(OpenError::Held { .. })));
    drop(again);
    assert!(start(&folder.spool()).is_ok());
}

#[test]
fn a_file_that_lost_its_log_or_whose_log_alone_is_left_is_told_and_kept() {
    let folder = Folder::new();
    let opened = opened(&folder);
    let log = fs::read(folder.path("spool.db-wal")).unwrap();
    let file = fs::read(folder.spool()).unwrap();
    drop(opened);
    // Without its log it is what it was at its last checkpoint.
    let without = Folder::new();
    fs::write(without.spool(), &file).unwrap();
    assert_eq!(start(&without.spool()).unwrap().salvage, None);
    // A log that was cut is read up to there.
    let cut = Folder::new();
    fs::write(cut.spool(), &file).unwrap();
    fs::write(cut.path("spool.db-wal"), &log[..log.len() - 100]).unwrap();
    let opened = start(&cut.spool()).unwrap();
    assert_eq!((opened.salvage, opened.store.ledger().unwrap().unaccounted()), (None, 0));
    // SQLite would delete a log without a file, and with it what only the log had.
    for left in [None, Some("")] {
        let headless = Folder::new();
        if let Some(bytes) = left {
            fs::write(headless.spool(), bytes).unwrap();
        }
        // This one has all of its spool in its log.
        let v1 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/spools/v1-killed.db-wal");
        fs::copy(&v1, headless.path("spool.db-wal")).unwrap();
        let salvage = start(&headless.spool()).unwrap().salvage.unwrap();
        let aside = open::with_suffix(&salvage.set_aside, "-wal");
        assert_eq!(fs::read(aside).unwrap(), fs::read(v1).unwrap());
    }
}

#[test]
fn what_a_failed_salvage_left_is_gone_after_a_clean_start() {
    let folder = Folder::new();
    drop(opened(&folder));
    // A spool with an old chunk in it, which must not come back.
    let left = folder.path("spool.db.salvaged");
    fs::copy(folder.spool(), &left).unwrap();
    drop(start(&folder.spool()).unwrap());
    assert!(!left.exists());
    fs::remove_file(folder.spool()).unwrap();
    assert_eq!(start(&folder.spool()).unwrap().store.ledger().unwrap().spooled, 0);
    // What is not ours is not removed, nor taken for the spool.
    fs::write(&left, "theirs").unwrap();
    drop(start(&folder.spool()).unwrap());
    fs::remove_file(folder.spool()).unwrap();
    assert_eq!(start(&folder.spool()).unwrap().store.ledger().unwrap().spooled, 0);
    assert_eq!(fs::read(&left).unwrap(), b"theirs");
}

/// What was amiss; the spool that has its name again.
fn rescued(opened: Opened, put_before: u32) -> Rescued {
    let rescued = rescue(&opened.store, Durability::Normal, std::time::SystemTime::now()).unwrap().unwrap();
    assert_eq!(rescued.store.still_ours(), Ok(()));
    assert_eq!(rescued.store.ledger().unwrap(), opened.store.ledger().unwrap());
    assert_eq!(rescued.store.uuid().unwrap(), opened.store.uuid().unwrap());
    // SQLite removes the log with the last connection: not that of the new file.
    drop(opened);
    put(&rescued.store, 2, "after", 7);
    assert_eq!(rescued.store.still_ours(), Ok(()));
    let metas = rescued.store.scan(None, false, 10).unwrap();
    assert_eq!(metas.iter().map(|meta| meta.rows).collect::<Vec<_>>(), [put_before, 7]);
    rescued
}

/// As after `kill -9`: what another process finds.
fn found(path: &Path) -> u32 {
    let db = Connection::open(path).unwrap();
    db.query_row("SELECT sum(rows) FROM chunk", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_spool_whose_file_log_or_folder_is_deleted_gets_it_back_with_all_that_was_in_it() {
    for gone in ["spool.db", "spool.db-wal", "spool.db-shm", "all files", "the folder"] {
        let folder = Folder::new();
        fs::create_dir(folder.path("volume")).unwrap();
        let path = folder.path("volume/spool.db");
        let opened = start(&path).unwrap();
        put(&opened.store, 1, "a", 50);
        assert_eq!(opened.store.still_ours(), Ok(()));
        match gone {
            "the folder" => fs::remove_dir_all(folder.path("volume")).unwrap(),
            "all files" => {
                for entry in fs::read_dir(folder.path("volume")).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
            }
            name => fs::remove_file(folder.path("volume").join(name)).unwrap(),
        }
        let amiss = opened.store.still_ours().unwrap_err();
        assert!(amiss.is_of_the_content(), "{gone}: {amiss}");
        let rescued = rescued(opened, 50);
        assert_eq!((rescued.set_aside, found(&path)), (None, 57), "{gone}");
        // There was a lock to take again only where it was gone too.
        assert_eq!(rescued.lock.is_some(), gone.starts_with("all") || gone.starts_with("the"), "{gone}");
        if rescued.lock.is_some() {
            assert!(matches!(lock(&path), Err(OpenError::Held { .. })));
        }
    }
}

#[test]
fn a_spool_that_another_spool_replaced_gets_its_name_back_and_the_other_is_set_aside() {
    let folder = Folder::new();
    let opened = opened(&folder);
    let backup = folder.path("backup");
    super::whose::make_spool(&backup);
    fs::rename(&backup, folder.spool()).unwrap();
    assert_eq!(opened.store.still_ours(), Err(Amiss::FileReplaced(folder.spool())));
    let aside = rescued(opened, 50).set_aside.unwrap();
    assert!(aside.to_str().unwrap().contains("spool.db.replaced-"), "{}", aside.display());
    assert_eq!((found(&folder.spool()), found(&aside)), (57, 5));
}

#[test]
fn a_spool_whose_name_something_else_has_goes_on_and_nothing_is_touched() {
    let folder = Folder::new();
    let opened = opened(&folder);
    fs::remove_file(folder.spool()).unwrap();
    fs::write(folder.spool(), "theirs").unwrap();
    let names = folder.names();
    let again = || rescue(&opened.store, Durability::Normal, std::time::SystemTime::now());
    assert!(matches!(again(), Err(OpenError::NotOurs { .. })));
    assert_eq!((folder.names(), fs::read(folder.spool()).unwrap()), (names, b"theirs".to_vec()));
    put(&opened.store, 2, "b", 7);
    // Once it is gone, all is well.
    fs::remove_file(folder.spool()).unwrap();
    assert_eq!(again().unwrap().unwrap().store.ledger().unwrap().spooled, 57);
}
