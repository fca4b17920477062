//! One job: a queue pair on a thread of its own that polls its socket, as the load of a storage bench has to (a thread that
//! sleeps measures the scheduler).

use super::workload::{Pattern, Workload};
use hdrhistogram::Histogram;
use longrun_nvmf::host::{Command, Queue, QueueEvent, QueueOptions};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Width of a column in what happened over time.
pub const COLUMN: Duration = Duration::from_millis(100);
/// How long the end waits for what is in flight.
const DRAIN: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 256 << 10;

/// A namespace that a job works on.
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    /// Its number.
    pub nsid: u32,
    /// Its block size.
    pub block_bytes: u32,
    /// Its blocks.
    pub blocks: u64,
}

/// What a job saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Latencies of reads, nanoseconds.
    pub reads: Histogram<u64>,
    /// Latencies of writes, nanoseconds.
    pub writes: Histogram<u64>,
    /// Commands that ended, by [`COLUMN`] since the measurement began.
    pub columns: Vec<u64>,
    /// Commands that ended with an error.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Seen {
    /// Nothing yet.
    pub fn new() -> Seen {
        // Three digits up to a minute.
        let empty = || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hold");
        Seen { reads: empty(), writes: empty(), columns: Vec::new(), errors: 0, first_error: None }
    }

    /// How many commands succeeded.
    pub fn commands(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    /// Adds what another job saw.
    pub fn add(&mut self, other: &Seen) {
        // Both have the same bounds.
        let _ = self.reads.add(&other.reads);
        let _ = self.writes.add(&other.writes);
        if self.columns.len() < other.columns.len() {
            self.columns.resize(other.columns.len(), 0);
        }
        for (column, more) in self.columns.iter_mut().zip(&other.columns) {
            *column += more;
        }
        self.errors += other.errors;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
    }
}

/// The times that all jobs share.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The first command.
    pub begin: Instant,
    /// From here on is measured ...
    pub from: Instant,
    /// ... up to here.
    pub until: Instant,
}

/// A job before it runs.
pub struct Job {
    stream: TcpStream,
    queue: Queue,
    workload: Workload,
    chooser: Chooser,
    /// Every such while a command is due; none: when one ends.
    interval: Option<Duration>,
    /// Its place among the jobs: their commands alternate.
    offset: Duration,
    data: Arc<[u8]>,
    /// Where it polls a reactor of the lab runs too: it lets that go on when there is nothing to do.
    gives_way: bool,
}

/// A command in flight.
#[derive(Clone, Copy)]
struct Issued {
    at: Instant,
    is_read: bool,
}

impl Job {
    /// Connects the queue pair. `number` counts from 0.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn connect(
        to: SocketAddr,
        options: QueueOptions,
        workload: &Workload,
        number: u16,
        namespaces: &[Namespace],
        gives_way: bool,
    ) -> Result<Job, String> {
        let mut queue = Queue::new(options);
        let stream = connect(to, &mut queue)?;
        let mut data = vec![0; workload.block_bytes as usize];
        SmallRng::seed_from_u64(u64::from(number)).fill(data.as_mut_slice());
        let jobs = u32::from(workload.jobs);
        let between = workload.rate.map(|rate| Duration::from_secs_f64(1.0 / rate as f64));
        Ok(Job {
            stream,
            queue,
            chooser: Chooser::new(workload, number, namespaces),
            interval: between.map(|between| between * jobs),
            offset: between.map_or(Duration::ZERO, |between| between * u32::from(number)),
            workload: workload.clone(),
            data: data.into(),
            gives_way,
        })
    }

    /// Works from the first time to the last, then waits for what is in flight.
    ///
    /// # Errors
    ///
    /// If the connection ends.
    pub fn run(self, times: Times) -> Result<Seen, String> {
        let Job { stream, mut queue, workload, mut chooser, interval, offset, data, gives_way } = self;
        let mut link = Link::new(stream);
        let depth = usize::from(workload.depth);
        let mut issued: Vec<Option<Issued>> = vec![None; depth];
        let mut free: Vec<usize> = (0..depth).rev().collect();
        let mut seen = Seen::new();
        let mut due = times.begin + offset;
        let mut burst = Burst { size: workload.burst.into(), begun: 0 };
        let mut courtesy = Courtesy { blocked_at: times.begin };
        loop {
            let now = Instant::now();
            let is_over = now >= times.until;
            while !is_over && due <= now && (interval.is_some() || burst.may_go_on(free.len())) {
                let Some(slot) = free.pop() else { break };
                let (command, is_read) = chooser.next(&data);
                // On a rate the time that was fixed counts, however late the command is.
                let at = if interval.is_some() { due } else { Instant::now() };
                if queue.submit(command, slot as u64).is_err() {
                    free.push(slot);
                    break;
                }
                issued[slot] = Some(Issued { at, is_read });
                if burst.ends_with_this()
                    && let Some(interval) = interval
                {
                    due += interval * burst.size;
                }
            }
            let came = link.exchange(&mut queue)?;
            if gives_way && !came {
                courtesy.give_way(now, interval.is_some());
            }
            while let Some(event) = queue.poll() {
                let completion = match event {
                    QueueEvent::Done(completion) => completion,
                    QueueEvent::Failed(error) => return Err(error.to_string()),
                    _ => continue,
                };
                let slot = completion.token as usize;
                queue.recycle(completion.data);
                let Some(command) = issued.get_mut(slot).and_then(Option::take) else { continue };
                free.push(slot);
                let ended = Instant::now();
                if ended < times.from || ended >= times.until {
                    continue;
                }
                if !completion.status.is_success() {
                    seen.errors += 1;
                    seen.first_error.get_or_insert_with(|| completion.status.to_string());
                    continue;
                }
                let latency = ended.saturating_duration_since(command.at).as_nanos() as u64;
                let histogram = if command.is_read { &mut seen.reads } else { &mut seen.writes };
                histogram.saturating_record(latency.max(1));
                let column = (ended - times.from).as_nanos() / COLUMN.as_nanos();
                let column = column as usize;
                if seen.columns.len() <= column {
                    seen.columns.resize(column + 1, 0);
                }
                seen.columns[column] += 1;
            }
            if is_over && free.len() == depth {
                return Ok(seen);
            }
            if is_over && now > times.until + DRAIN {
                return Err(format!("{} commands were not answered within {} s", depth - free.len(), DRAIN.as_secs()));
            }
        }
    }
}

/// Commands that are begun together.
struct Burst {
    size: u32,
    /// Of the one under way.
    begun: u32,
}

impl Burst {
    /// Whether the next command may begin, if so many can.
    fn may_go_on(&self, can: usize) -> bool {
        self.begun > 0 || can >= self.size as usize
    }

    /// One has begun; whether it was the burst's last.
    fn ends_with_this(&mut self) -> bool {
        self.begun = (self.begun + 1) % self.size;
        self.begun == 0
    }
}

/// How a host gives way to who shares its processor, while it has nothing to do.
///
/// Not by yielding alone: who stays ready to run gathers the time that he gave away, and takes it back at once when he has
/// something to do. *A host at 8,000 writes a second held the processor for 100 ms; beside it waited the secondary's reactor,
/// and the kernel's worker that ends the primary's writes, while the other processor was idle.* Who blocks forgets what he gave.
struct Courtesy {
    /// When it last did.
    blocked_at: Instant,
}

/// How long a host blocks: as short as the kernel lets it.
const BLOCKED: Duration = Duration::from_micros(10);
/// How long a host at full speed only yields.
const YIELDING_MAX: Duration = Duration::from_millis(1);

impl Courtesy {
    /// `has_time`: on a rate, a host is not in a hurry.
    fn give_way(&mut self, now: Instant, has_time: bool) {
        if has_time || now.saturating_duration_since(self.blocked_at) >= YIELDING_MAX {
            std::thread::sleep(BLOCKED);
            self.blocked_at = now;
        } else {
            std::thread::yield_now();
        }
    }
}

/// Connects and has the target take a queue up; answers its socket, which is polled from now on.
///
/// # Errors
///
/// Why not.
pub fn connect(to: SocketAddr, queue: &mut Queue) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("{to}: {error}; is the target listening there?");
    let stream = TcpStream::connect(to).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_nonblocking(true).map_err(failed)?;
    let mut link = Link::new(stream);
    let until = Instant::now() + DRAIN;
    loop {
        link.exchange(queue)?;
        match queue.poll() {
            Some(QueueEvent::Connected { .. }) => return Ok(link.stream),
            Some(QueueEvent::Failed(error)) => return Err(format!("{to}: {error}")),
            _ if Instant::now() > until => return Err(format!("{to}: no answer to Connect")),
            _ => std::thread::yield_now(),
        }
    }
}

/// A socket that is polled, and what has yet to be sent over it.
struct Link {
    stream: TcpStream,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Link {
    fn new(stream: TcpStream) -> Link {
        Link { stream, output: Vec::new(), sent: 0, input: vec![0; READ_BYTES] }
    }

    /// Sends what the socket takes, takes what it has. Whether that was something.
    fn exchange(&mut self, queue: &mut Queue) -> Result<bool, String> {
        if self.sent == self.output.len() {
            queue.swap_output(&mut self.output);
            self.sent = 0;
        }
        if self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
        match self.stream.read(&mut self.input) {
            Ok(0) => Err("the target ended the connection".to_owned()),
            Ok(bytes) => {
                queue.receive(&self.input[..bytes]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }
}

/// Draws the commands.
struct Chooser {
    namespaces: Vec<Namespace>,
    rng: SmallRng,
    read_percent: u32,
    bytes: u32,
    /// Where the next command goes, in commands from the start of each namespace; none: anywhere.
    next: Option<u64>,
    turn: usize,
}

impl Chooser {
    fn new(workload: &Workload, number: u16, namespaces: &[Namespace]) -> Chooser {
        let least = namespaces.iter().map(|namespace| places(namespace, workload.block_bytes)).min().unwrap_or(1);
        let next = match workload.pattern {
            Pattern::Random => None,
            Pattern::Sequential => Some(least / u64::from(workload.jobs) * u64::from(number)),
        };
        Chooser {
            namespaces: namespaces.to_vec(),
            rng: SmallRng::seed_from_u64(0x10_ad + u64::from(number)),
            read_percent: u32::from(workload.read_percent),
            bytes: workload.block_bytes,
            next,
            turn: usize::from(number),
        }
    }

    /// The next command, and whether it reads.
    fn next(&mut self, data: &Arc<[u8]>) -> (Command, bool) {
        self.turn = (self.turn + 1) % self.namespaces.len();
        let namespace = self.namespaces[self.turn];
        let places = places(&namespace, self.bytes);
        let place = match &mut self.next {
            Some(next) => {
                // All namespaces in step.
                *next += u64::from(self.turn == 0);
                *next % places
            }
            None => self.rng.random_range(0..places),
        };
        let blocks = self.bytes / namespace.block_bytes;
        let lba = place * u64::from(blocks);
        let is_read = self.rng.random_range(0..100) < self.read_percent;
        let command = match is_read {
            true => Command::read(namespace.nsid, lba, blocks as u16, self.bytes),
            false => Command::write(namespace.nsid, lba, blocks as u16, data.clone(), false),
        };
        (command, is_read)
    }
}

/// How many commands of so many bytes a namespace has room for.
pub fn places(namespace: &Namespace, bytes: u32) -> u64 {
    namespace.blocks * u64::from(namespace.block_bytes) / u64::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> Vec<Namespace> {
        vec![Namespace { nsid: 1, block_bytes: 4096, blocks: 16 }, Namespace { nsid: 2, block_bytes: 512, blocks: 64 }]
    }

    #[test]
    fn a_burst_begins_when_all_of_it_can_and_goes_on_to_its_last() {
        let mut burst = Burst { size: 3, begun: 0 };
        assert!(!burst.may_go_on(2) && burst.may_go_on(3));
        assert!(!burst.ends_with_this());
        assert!(burst.may_go_on(2) && !burst.ends_with_this() && burst.may_go_on(1));
        assert!(burst.ends_with_this() && !burst.may_go_on(2), "the next one waits again");
        let mut single = Burst { size: 1, begun: 0 };
        assert!(single.may_go_on(1) && single.ends_with_this() && single.may_go_on(1));
    }

    fn drawn(workload: &Workload, number: u16, count: usize) -> Vec<(u32, u64, bool)> {
        let mut chooser = Chooser::new(workload, number, &namespaces());
        let data = vec![0; workload.block_bytes as usize].into();
        (0..count)
            .map(|_| {
                let (command, is_read) = chooser.next(&data);
                let nsid = command.sqe.nsid.get();
                (nsid, u64::from(command.sqe.cdw10[0].get()), is_read)
            })
            .collect()
    }

    #[test]
    fn random_commands_lie_within_their_namespace_and_reads_have_their_share() {
        let workload = Workload { read_percent: 30, ..Workload::default() };
        let drawn = drawn(&workload, 0, 4000);
        for (nsid, lba, _) in &drawn {
            let end = if *nsid == 1 { 16 } else { 64 };
            let step = if *nsid == 1 { 1 } else { 8 };
            assert!(lba + step <= end && lba % step == 0, "namespace {nsid} at {lba}");
        }
        let reads = drawn.iter().filter(|(.., is_read)| *is_read).count();
        assert!((1000..1400).contains(&reads), "{reads} of 4000");
    }

    #[test]
    fn sequential_commands_follow_each_other_in_every_namespace_and_jobs_begin_apart() {
        let workload = Workload { pattern: Pattern::Sequential, jobs: 2, ..Workload::default() };
        let of = |number, nsid| -> Vec<u64> {
            drawn(&workload, number, 8).into_iter().filter(|(of, ..)| *of == nsid).map(|(_, lba, _)| lba).collect()
        };
        assert!(of(0, 1).windows(2).all(|pair| pair[1] == pair[0] + 1), "{:?}", of(0, 1));
        assert_ne!(of(0, 1)[0], of(1, 1)[0]);
    }

    #[test]
    fn jobs_add_up() {
        let (mut all, mut one) = (Seen::new(), Seen::new());
        one.writes.record(1000).unwrap();
        (one.columns, one.errors, one.first_error) = (vec![0, 2], 1, Some("late".to_owned()));
        all.add(&one);
        all.add(&one);
        assert_eq!((all.writes.len(), all.columns, all.errors), (2, vec![0, 4], 2));
        assert_eq!(all.first_error.as_deref(), Some("late"));
    }
}
