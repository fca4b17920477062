//! What an engine sees: memory, and ports that only note what was asked of them.

use super::*;

/// The engine's kind of memory; never made.
pub enum TestMemory {}

impl Memory for TestMemory {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, _: usize) -> Option<Vec<u8>> {
        match *self {}
    }

    fn freeze(&mut self, _: Vec<u8>, _: usize) -> Rc<[u8]> {
        match *self {}
    }
}

/// A system's metadata and disks.
pub type Copy = (BTreeMap<String, Vec<u8>>, BTreeMap<VolumeId, Disk>);

pub(super) enum Out {
    Local(VolumeId, Local, LocalToken),
    Persisted(String, Vec<u8>, MetaToken),
}

/// How a host's request ended, and a read's bytes.
pub type HostAnswer = (Result<(), HostError>, Option<Vec<u8>>);

/// What an engine sees of its world.
pub struct World {
    pub(super) outs: VecDeque<Out>,
    /// As last asked for.
    pub(super) meta: BTreeMap<String, Vec<u8>>,
    pub answers: BTreeMap<u64, Result<OperatorAnswer, OperatorError>>,
    pub hosts: BTreeMap<u64, HostAnswer>,
    /// Datagrams to the other system.
    pub(super) sent: VecDeque<(Vec<u8>, usize)>,
    pub log: Vec<String>,
    pub roles: Vec<(Role, Generation)>,
    /// Volumes that have more than [`BLOCKS`].
    pub larger: BTreeMap<VolumeId, u64>,
    /// Stamps given: (generation of the rig's count, time).
    pub stamped: Vec<Time>,
}

impl Memory for World {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        Some(vec![0xa5; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

impl Ports for World {
    fn local(&mut self, volume: VolumeId, io: Local, token: LocalToken) {
        self.outs.push_back(Out::Local(volume, io, token));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Vec<u8>>) {
        self.hosts.insert(token.0, (outcome, buf));
    }

    fn transmit(&mut self, _: LinkId, _: SocketAddr, train: Vec<u8>, bytes: usize, segment_bytes: usize) {
        self.sent.push_back((train[..bytes].to_vec(), segment_bytes));
    }

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.meta.insert(key.to_owned(), value.to_owned());
        self.outs.push_back(Out::Persisted(key.to_owned(), value.to_owned(), token));
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.meta.get(key).cloned()
    }

    fn volume_blocks(&self, volume: VolumeId) -> Option<u64> {
        Some(self.larger.get(&volume).copied().unwrap_or(BLOCKS))
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.answers.insert(ticket.0, answer);
    }

    fn stamped(&mut self, _: Epoch, record: &Record<Rc<[u8]>>) {
        self.stamped.push(record.head.stamp.time);
    }

    fn role_changed(&mut self, _: GroupId, role: Role, generation: Generation) {
        self.roles.push((role, generation));
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.log.push(line.to_string());
    }
}
