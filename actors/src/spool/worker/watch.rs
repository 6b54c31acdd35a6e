//! Owns what the spool's thread does when the file that is open is not the one that has the name any more, or cannot be
//! read or written: it is mended where it can be, said once, and shown. It never touches what is not ours.

use std::{
    fs::File,
    time::{Duration, Instant, SystemTime},
};

use super::{Worker, episode::Episode};
use crate::{
    core::{
        reason::Dropped,
        tally::{Place as Where, Tally},
    },
    spool::{
        Notice, SpoolError,
        open::{self, Amiss, Known, Place},
        store::{self, Store},
    },
};

/// How long to wait after something could not be mended: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often a file that has lost its name is tried to be copied as a whole before what cannot be read is given up.
const WHOLE_TRIES: u32 = 3;

/// For so long an error of the disk is shown.
const SHOWN_FOR: Duration = Duration::from_secs(3);

/// What is amiss with the spool.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What is shown.
    amiss: Option<String>,
    /// What was said last, and whether it is over.
    said: Option<String>,
    episode: Episode,
    /// The last error of the disk.
    error: Option<(Instant, String)>,
    /// What could not be mended: when, why, how long to wait from then, and how often.
    failed: Option<Failed>,
    /// Another daemon has the spool.
    pub(super) shut: Option<String>,
}

#[derive(Debug, Clone)]
struct Failed {
    at: Instant,
    why: String,
    pause: Duration,
    times: u32,
}

impl Watch {
    /// What is shown of it.
    pub(super) fn amiss(&self) -> Option<String> {
        self.amiss.clone()
    }

    /// Why it is too early to try again what failed.
    pub(super) fn too_early(&self) -> Option<String> {
        self.failed
            .as_ref()
            .filter(|failed| failed.at.elapsed() < failed.pause)
            .map(|failed| failed.why.clone())
    }

    /// It could not be mended.
    pub(super) fn not_mended(&mut self, why: String) {
        let (pause, times) = match &self.failed {
            Some(failed) => (failed.pause.saturating_mul(2).min(PAUSE.1), failed.times.saturating_add(1)),
            None => (PAUSE.0, 1),
        };
        self.failed = Some(Failed { at: Instant::now(), why, pause, times });
    }

    pub(super) fn mended(&mut self) {
        self.failed = None;
    }

    fn may_give_up_the_rest(&self) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.times >= WHOLE_TRIES)
    }

    /// The disk did not let the spool be read or written.
    pub(super) fn disk_failed(&mut self, error: String) {
        self.error = Some((Instant::now(), error));
    }
}

impl Worker {
    /// Looks whether all is as it should be, and mends it where that can be done.
    pub(super) fn watch(&mut self) {
        let amiss = match self.store.still_ours() {
            Ok(()) if self.watch.shut.is_none() => None,
            // Nobody has removed the lock again, so it is still theirs.
            Ok(()) => self.lock_again(),
            Err(Amiss::LockGone(_)) => self.lock_again(),
            Err(cut @ Amiss::FileCut(_)) => {
                let error = self.store.check().err().unwrap_or_else(|| store::damage(cut.to_string()));
                let error = if open::is_damage(&error) { error } else { store::damage(cut.to_string()) };
                match self.failed(&error) {
                    SpoolError::Replaced => None,
                    error => Some(error.to_string()),
                }
            }
            Err(amiss) if amiss.is_of_the_content() => self.rescue(&amiss).err(),
            Err(amiss) => Some(amiss.to_string()),
        };
        let error = self.watch.error.as_ref().filter(|(at, _)| at.elapsed() < SHOWN_FOR);
        let error = error.map(|(_, error)| format!("the spool cannot be read or written: {error}"));
        // Errors of the disk have many words for one thing.
        let key = amiss.clone().or_else(|| error.as_ref().map(|_| "error".to_owned()));
        self.watch.amiss = amiss.or(error);
        match (&self.watch.amiss, key) {
            (Some(amiss), key) => {
                if self.watch.episode.begins() || self.watch.said != key {
                    (self.say)(Notice::Amiss(amiss.clone()));
                }
                self.watch.said = key;
            }
            (None, _) => self.watch.episode.pauses(),
        }
        if self.watch.episode.is_over() {
            self.watch.said = None;
            (self.say)(Notice::NotAmiss);
        }
    }

    /// Takes the lock that has the name now; what is amiss if another daemon has it.
    fn lock_again(&mut self) -> Option<String> {
        let path = self.store.guard()?.path().to_owned();
        match open::lock(&path) {
            Ok(lock) => {
                if let Some(guard) = self.store.guard() {
                    guard.locked_by(&lock);
                }
                self.lock = Some(lock);
                if self.watch.shut.take().is_some() {
                    self.adopt();
                }
                (self.say)(Notice::Locked);
                None
            }
            Err(error) => Some(self.not_locked(&error)),
        }
    }

    /// Where another daemon has the spool, it alone goes on with it: what both of them send comes twice, and what both of
    /// them count is counted wrong.
    fn not_locked(&mut self, error: &open::OpenError) -> String {
        let open::OpenError::Held { holder, .. } = error else { return error.to_string() };
        let text = format!(
            "another daemon has the spool since its lock was removed ({holder}): this one takes and sends nothing \
             until that has ended"
        );
        self.watch.shut = Some(text.clone());
        text
    }

    /// Another daemon had the spool: what is in it now, and counted in it, is taken over.
    fn adopt(&mut self) {
        let Ok(file) = self.store.ledger() else { return };
        let (written, mut late) = (&self.written, Tally::default());
        self.unwritten.moves().for_each(|each| late.add(Where::Wire, each.to, each.n));
        // Others count meanwhile: what is in memory only stays as it is.
        self.ledger.change(|ledger| ledger.adopt(&file, written, &late));
        self.written = file;
        self.all_held_waits();
        self.acknowledged.replace(self.store.acknowledged().unwrap_or_default());
        self.last_id = self.last_id.max(self.store.last_id().unwrap_or(0));
        self.letters = self.store.letters().unwrap_or(self.letters);
        self.fresh.renumber(Instant::now(), &mut self.last_id);
        self.queue.forget(self.last_id);
        self.changed = true;
    }

    /// Gives the spool that is open its name again, in a new file.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub(super) fn rescue(&mut self, amiss: &Amiss) -> Result<(), String> {
        if let Some(why) = self.watch.too_early() {
            return Err(why);
        }
        match open::rescue(&self.store, self.options.sync, SystemTime::now()) {
            Ok(Some(rescued)) => {
                let (what, set_aside) = (amiss.to_string(), rescued.set_aside);
                self.take_over(rescued.store, rescued.lock);
                (self.say)(Notice::Rescued { what, set_aside });
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error @ open::OpenError::Held { .. }) => Err(self.not_locked(&error)),
            Err(error) => {
                let damaged =
                    matches!(&error, open::OpenError::Sqlite { error, .. } if open::is_damage(error));
                if (damaged || self.watch.may_give_up_the_rest())
                    && self.start_anew(amiss.to_string()).is_ok()
                {
                    return Ok(());
                }
                let why = format!("{amiss}; what is in it cannot be written to a new file: {error}");
                self.watch.not_mended(why.clone());
                Err(why)
            }
        }
    }

    /// Goes on with another file of the same content.
    pub(super) fn take_over(&mut self, store: Store, lock: Option<File>) {
        self.store = store;
        if lock.is_some() {
            self.lock = lock;
        }
        self.data_version = None;
        self.changed = true;
        self.watch.mended();
        self.bound_log();
        let Some(reserve) = self.reserve.as_ref().filter(|_| self.full.is_none()) else { return };
        // It lay in the same folder.
        let no_room = reserve.disk_free_bytes().is_some_and(|free| free < reserve.bytes());
        if !reserve.take(false) && no_room {
            self.disk_is_full();
        }
    }

    // === Damage ===

    /// The file is damaged: sets it aside, and goes on with what can be read of it.
    pub(super) fn damaged(&mut self, cause: String) -> SpoolError {
        let Place::File(path) = self.options.place.clone() else {
            return SpoolError::Disk(cause);
        };
        if let Some(why) = self.watch.too_early() {
            self.watch.disk_failed(why.clone());
            return SpoolError::Disk(why);
        }
        if let Some(shut) = &self.watch.shut {
            return SpoolError::Disk(shut.clone());
        }
        // What has its name now may be another's, which is not ours to set aside.
        if !self.store.guard().is_some_and(open::Guard::has_its_name) {
            return match self.start_anew(cause) {
                Ok(()) => SpoolError::Replaced,
                Err(error) => self.not_set_aside(error),
            };
        }
        let (known, spooled) = self.known();
        match open::set_aside(&path, self.options.sync, SystemTime::now(), cause, Some(known)) {
            Ok((store, salvage)) => {
                self.go_on_with(store, None, spooled, salvage);
                SpoolError::Replaced
            }
            Err(error) => self.not_set_aside(error.to_string()),
        }
    }

    fn not_set_aside(&mut self, error: String) -> SpoolError {
        let why = format!("it is damaged, and cannot be set aside: {error}");
        self.watch.not_mended(why.clone());
        self.watch.disk_failed(why.clone());
        SpoolError::Disk(why)
    }

    /// Starts a new file under the name, with what can be read through the connection that is open: the old one has no
    /// name any more, and cannot be read as a whole.
    fn start_anew(&mut self, cause: String) -> Result<(), String> {
        let (known, spooled) = self.known();
        let anew = open::start_anew(&self.store, self.options.sync, SystemTime::now(), cause, known);
        let (rescued, salvage) = anew.map_err(|error| error.to_string())?;
        self.go_on_with(rescued.store, rescued.lock, spooled, salvage);
        Ok(())
    }

    /// What the file has, or should have: the ledger, but for what is in memory only; and how many rows it held.
    fn known(&self) -> (Known, u64) {
        let mut ledger = self.ledger.snapshot();
        for in_memory in [&mut ledger.open, &mut ledger.held, &mut ledger.held_acknowledged] {
            ledger.received = ledger.received.saturating_sub(std::mem::take(in_memory));
        }
        // What was acknowledged is sent again.
        ledger.spooled = ledger.spooled.saturating_add(std::mem::take(&mut ledger.acknowledged));
        let spooled = ledger.spooled;
        (Known { ledger, last_id: self.last_id, tenants: self.lanes.all() }, spooled)
    }

    /// What is held in memory is in hand no more, and is sent again under another number.
    fn all_held_waits(&self) {
        let mut tally = Tally::default();
        tally.add(Where::HeldAcknowledged, Where::Held, self.ledger.snapshot().held_acknowledged);
        self.ledger.change(|ledger| ledger.apply(&tally));
    }

    fn go_on_with(&mut self, store: Store, lock: Option<File>, spooled: u64, salvage: open::Salvage) {
        self.take_over(store, lock);
        self.unwritten = Tally::default();
        self.read_counts();
        self.all_held_waits();
        self.acknowledged.replace(Vec::new());
        self.fresh.renumber(Instant::now(), &mut self.last_id);
        self.queue.forget(self.last_id);
        // Others have counted meanwhile, so the ledger is changed by what the salvage changed, and never set.
        let salvaged = self.written.spooled;
        let mut tally = Tally::default();
        tally.add(Where::Acknowledged, Where::Spooled, self.ledger.snapshot().acknowledged);
        tally.add(Where::Spooled, Where::Dropped(Dropped::Damaged), spooled.saturating_sub(salvaged));
        tally.add(Where::Wire, Where::Spooled, salvaged.saturating_sub(spooled));
        self.ledger.change(|ledger| ledger.apply(&tally));
        (self.say)(Notice::Salvaged(salvage));
    }
}
