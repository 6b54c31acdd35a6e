//! What is not ours is refused, and nothing is changed there: neither the file, nor its folder.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    time::SystemTime,
};

use super::*;
use crate::spool::open::{OpenError, Opened, open};

/// A folder in which a spool may lie.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.path("spool.db")
    }

    /// Every file with its bytes; of what is no regular file only the name.
    pub(super) fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(Result::unwrap);
        let bytes = |path: PathBuf| {
            let regular = fs::symlink_metadata(&path).unwrap().is_file();
            if regular { fs::read(path).unwrap() } else { Vec::new() }
        };
        entries.map(|entry| (entry.file_name().into_string().unwrap(), bytes(entry.path()))).collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.content().into_keys().collect()
    }
}

pub(super) fn start(path: &Path) -> Result<Opened, OpenError> {
    open(&Place::File(path.to_owned()), Durability::Normal, SystemTime::now())
}

/// Says that a test was not run, and why.
#[allow(clippy::print_stderr, reason = "it is for whoever looks at the tests")]
pub(super) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A start that is refused; what it says.
fn refuses(path: &Path, what: &str) -> String {
    match start(path) {
        Ok(_) => panic!("{what}: it was opened"),
        Err(error @ (OpenError::NotOurs { .. } | OpenError::Later { .. })) => error.to_string(),
        Err(error) => panic!("{what}: {error}"),
    }
}

/// A spool with one chunk of five rows, closed.
pub(super) fn make_spool(path: &Path) {
    let opened = start(path).unwrap();
    put(&opened.store, 1, "kept", 5);
}

pub(super) fn put(store: &store::Store, id: ChunkId, name: &str, n: u32) {
    let chunk = crate::core::chunk::Sealer::new(Encoding::Deflate).seal(&rows(name, n).into());
    store
        .transaction(|store| {
            store.insert_in(store::LANE_DEFAULT, id, &chunk, 1_700_000_000_000)?;
            store.count("spooled", "", n.into())?;
            store.count("received", "", n.into())
        })
        .unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_that_is_no_spool_is_refused_and_not_touched() {
    let folder = Folder::new();
    make_spool(&folder.spool());
    let spool = fs::read(folder.spool()).unwrap();
    let changed = |sql: &str| {
        let path = folder.path("changed");
        fs::write(&path, &spool).unwrap();
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        fs::read(&path).unwrap()
    };
    let another = {
        let path = folder.path("another");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE precious (x); PRAGMA user_version = 3")
            .unwrap();
        fs::read(path).unwrap()
    };
    let garbage: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (bytes, what) in [
        (b"localhost\n".to_vec(), "a file of another kind"),
        (garbage, "a file of another kind"),
        (spool[..71].to_vec(), "a file of another kind"),
        (another, "an SQLite file of another program"),
        (changed("PRAGMA application_id = 7"), "an SQLite file of another program (application 0x7)"),
        (changed("PRAGMA application_id = 0"), "an SQLite file of another program (application 0x0)"),
    ] {
        let folder = Folder::new();
        fs::write(folder.spool(), &bytes).unwrap();
        let text = refuses(&folder.spool(), what);
        assert!(text.contains(what) && text.contains("is no spool") && text.contains("--spool"), "{text}");
        assert_eq!(folder.content(), BTreeMap::from([("spool.db".to_owned(), bytes)]), "{what}");
    }
}

#[test]
fn another_programs_database_is_not_touched_though_its_content_is_in_its_log() {
    let folder = Folder::new();
    let theirs = Connection::open(folder.spool()).unwrap();
    theirs.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE precious (x)").unwrap();
    let before = folder.content();
    assert!(before["spool.db-wal"].len() > 4_096);
    refuses(&folder.spool(), "their database");
    assert_eq!(folder.content(), before);
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_opened() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(folder.path("pipe")).status();
    assert!(pipe.unwrap().success());
    symlink("/dev/null", folder.path("link")).unwrap();
    symlink(folder.path("loop"), folder.path("loop")).unwrap();
    let before = folder.names();
    for (name, what) in [
        ("folder", "a folder"),
        ("socket", "a socket"),
        ("pipe", "a named pipe"),
        ("link", "a device"),
        ("loop", "a link that leads to itself"),
    ] {
        let text = refuses(&folder.path(name), name);
        assert!(text.contains(&format!("it is {what};")), "{text}");
    }
    assert!(refuses(Path::new("/dev/null"), "a device").contains("it is a device;"));
    assert!(refuses(Path::new("/"), "the root").contains("it is a folder;"));
    assert_eq!(folder.names(), before);
    drop(socket);
}

#[test]
fn a_link_to_what_is_no_spool_is_refused_and_its_target_stays() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    fs::write(elsewhere.path("precious"), "theirs").unwrap();
    symlink(elsewhere.path("precious"), folder.spool()).unwrap();
    refuses(&folder.spool(), "a link to a text");
    assert_eq!(elsewhere.content(), BTreeMap::from([("precious".to_owned(), b"theirs".to_vec())]));
    assert_eq!(folder.names(), ["spool.db"]);
}

#[test]
fn a_link_to_a_spool_is_followed_and_all_lies_beside_the_target() {
    let (folder, disk) = (Folder::new(), Folder::new());
    symlink(disk.path("data.db"), folder.spool()).unwrap();
    // The target is made where the link says, even if it is not there yet.
    make_spool(&folder.spool());
    assert_eq!(folder.names(), ["spool.db"], "nothing lies beside the link");
    assert_eq!(disk.names(), ["data.db", "data.db.lock"]);
    // Whoever goes through the link meets the same lock.
    let opened = start(&disk.path("data.db")).unwrap();
    assert!(matches!(start(&folder.spool()), Err(OpenError::Held { .. })));
    drop(opened);
    let reserve = super::super::reserve::Reserve::new(&folder.spool(), 64 << 20);
    assert!(reserve.take(false));
    assert!(disk.path("data.db.reserve").exists());

    // A damaged target is set aside beside itself, and the link stays a link.
    let mut bytes = fs::read(disk.path("data.db")).unwrap();
    bytes.truncate(9_000);
    fs::write(disk.path("data.db"), &bytes).unwrap();
    let opened = start(&folder.spool()).unwrap();
    let aside = opened.salvage.unwrap().set_aside;
    assert_eq!(aside.parent(), disk.path("data.db").parent());
    assert_eq!(fs::read(aside).unwrap(), bytes);
    assert!(fs::symlink_metadata(folder.spool()).unwrap().is_symlink());
    assert_eq!(folder.names(), ["spool.db"]);
}

#[test]
fn a_link_that_leads_to_a_disk_that_is_not_there_is_refused() {
    let folder = Folder::new();
    symlink("/nowhere/at/all/spool.db", folder.spool()).unwrap();
    let Err(error) = start(&folder.spool()) else { panic!("it was opened") };
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    assert_eq!(folder.names(), ["spool.db"]);
}

#[test]
fn an_empty_file_is_a_new_spool_and_not_a_damaged_one() {
    let folder = Folder::new();
    fs::write(folder.spool(), "").unwrap();
    let opened = start(&folder.spool()).unwrap();
    assert_eq!((&opened.salvage, mode(&folder.spool())), (&None, 0o600));
    put(&opened.store, 1, "first", 5);
    drop(opened);
    assert_eq!(start(&folder.spool()).unwrap().store.ledger().unwrap().spooled, 5);
    assert_eq!(folder.names().iter().filter(|name| name.contains("damaged")).count(), 0);
}

#[test]
fn what_version_1_left_when_it_was_killed_in_its_first_moment_is_a_new_spool() {
    let folder = Folder::new();
    let first = Connection::open(folder.spool()).unwrap();
    first
        .execute_batch("PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL")
        .unwrap();
    drop(first);
    assert_eq!(fs::metadata(folder.spool()).unwrap().len(), 8_192);
    assert_eq!(start(&folder.spool()).unwrap().salvage, None);
}

#[test]
fn all_that_is_made_is_for_the_daemons_user_alone() {
    let folder = Folder::new();
    let path = folder.path("a/b/spool.db");
    let opened = start(&path).unwrap();
    put(&opened.store, 1, "secret", 5);
    let reserve = super::super::reserve::Reserve::new(&path, 64 << 20);
    assert!(reserve.take(false));
    for made in ["a", "a/b"] {
        assert_eq!(mode(&folder.path(made)), 0o700, "{made}");
    }
    for suffix in ["", "-wal", "-shm", ".lock", ".reserve"] {
        assert_eq!(mode(&open::with_suffix(&path, suffix)), 0o600, "{suffix}");
    }
    // What is salvaged too.
    drop(opened);
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(9_000);
    fs::write(&path, bytes).unwrap();
    let opened = start(&path).unwrap();
    assert!(opened.salvage.is_some());
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_folder_that_every_user_may_write_to_is_known() {
    let folder = Folder::new();
    let place = Place::File(folder.spool());
    assert_eq!(open::open_to_all(&place), None);
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(open::open_to_all(&place).as_deref(), folder.spool().parent());
    assert_eq!(open::open_to_all(&Place::Memory), None);
}

#[test]
fn a_link_or_another_file_at_the_lock_is_refused_and_its_target_stays() {
    let folder = Folder::new();
    let victim = folder.path("victim");
    let lock = folder.path("spool.db.lock");
    fs::write(&victim, "theirs").unwrap();
    symlink(&victim, &lock).unwrap();
    assert!(refuses(&folder.spool(), "a link").contains("it is a link;"));
    fs::remove_file(&lock).unwrap();
    fs::hard_link(&victim, &lock).unwrap();
    assert!(refuses(&folder.spool(), "a second name").contains("a second name of another file"));
    fs::remove_file(&lock).unwrap();
    fs::write(&lock, "theirs").unwrap();
    refuses(&folder.spool(), "another's lock");
    assert_eq!(fs::read(&lock).unwrap(), b"theirs");
    assert_eq!(fs::read(&victim).unwrap(), b"theirs");
    assert_eq!(folder.names(), ["spool.db.lock", "victim"], "no spool was made");
}

#[test]
fn a_link_at_the_reserve_is_replaced_and_its_target_stays() {
    let folder = Folder::new();
    let victim = folder.path("victim");
    fs::write(&victim, "theirs").unwrap();
    symlink(&victim, folder.path("spool.db.reserve")).unwrap();
    let reserve = super::super::reserve::Reserve::new(&folder.spool(), 64 << 20);
    assert!(reserve.take(false));
    assert_eq!(fs::read(&victim).unwrap(), b"theirs");
    assert_eq!(fs::symlink_metadata(folder.path("spool.db.reserve")).unwrap().len(), reserve.bytes());
}

#[test]
fn an_empty_lock_of_another_program_stays_as_it_is_beside_what_is_no_spool() {
    let folder = Folder::new();
    fs::write(folder.spool(), "theirs").unwrap();
    fs::write(folder.path("spool.db.lock"), "").unwrap();
    let before = folder.content();
    refuses(&folder.spool(), "theirs");
    assert_eq!(folder.content(), before);
}

#[test]
fn a_link_that_another_user_put_there_is_refused() {
    let folder = Folder::new();
    make_spool(&folder.path("real.db"));
    symlink(folder.path("real.db"), folder.spool()).unwrap();
    let nobody = 65_534;
    if std::os::unix::fs::lchown(folder.spool(), Some(nobody), None).is_err() {
        skipped("only root can give a link away");
        return;
    }
    assert_eq!(fs::symlink_metadata(folder.spool()).unwrap().uid(), nobody);
    assert!(refuses(&folder.spool(), "a link").contains("a link that another user put there"));
}
