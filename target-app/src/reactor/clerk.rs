//! A reactor's errand boy: carries metadata to the store and lines to the log, so that the reactor waits for neither.

use super::ReactorHandle;
use crate::metadata::Metadata;
use longrun_bdev::replica::Persist;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use tokio::sync::Notify;

/// One reactor's clerk.
pub struct Clerk {
    metadata: Metadata,
    /// The reactor's own handle, by which it is told of durability.
    reactor: ReactorHandle,
    lines: Sender<String>,
    /// Told when the control plane has something to look at.
    news: Arc<Notify>,
}

impl Clerk {
    /// A clerk of this reactor.
    pub fn new(metadata: Metadata, reactor: ReactorHandle, lines: Sender<String>, news: Arc<Notify>) -> Clerk {
        Clerk { metadata, reactor, lines, news }
    }

    /// Has the control plane look at what groups and volumes are now.
    pub fn bring_news(&self) {
        self.news.notify_one();
    }

    /// Has a value made durable, and the engine told so.
    pub fn persist(&self, persist: Persist) {
        let reactor = self.reactor.clone();
        let token = persist.token;
        self.metadata.put(&persist.key, &persist.value, move || {
            reactor.post(move |reactor| {
                let (core, uring, now) = reactor.core();
                core.persisted(now, uring, token);
            });
        });
    }

    /// Logs a line.
    pub fn log(&self, line: String) {
        // The log's thread ends after the reactors.
        let _ = self.lines.send(line);
    }
}
