use std::net::SocketAddr;
use std::time::{Duration, Instant};

use longrun_copy::link::generate_keypair;
use longrun_copy::ports::{OperatorAnswer, Ticket};
use longrun_copy::primary::PrimaryConfig;
use longrun_copy::secondary::SecondaryConfig;
use longrun_copy::types::{Extent, SystemId, Time};
use longrun_hal::clock::{mono_ns, wall_ns};
use longrun_hal::net::{UdpConfig, udp_bind};
use longrun_hal::{ArenaConfig, UringConfig};
use uuid::Uuid;

use super::*;
use crate::catalog::{Catalog, Spec};
use crate::io::{IoError, IoType};
use crate::testing::{extent, malloc};

mod pairs;

#[test]
fn tokens_say_whose_they_are() {
    let id = BdevId(0x00ab_cdef);
    let of_bdev = token::bdev(id, 0x8765_4321);
    assert_eq!(token::class(of_bdev), token::CLASS_BDEV);
    assert_eq!(token::bdev_parts(of_bdev), (id, 0x8765_4321));
    assert_eq!(token::class(token::link_receive(7)), token::CLASS_LINK_RECEIVE);
    assert_eq!(token::class(token::link_send(7)), token::CLASS_LINK_SEND);
    assert_eq!(token::socket(token::link_send(7)), 7);
    assert!(token::is_ours(of_bdev));
    assert!(!token::is_ours(0x1000_0000_0000_0000));
}

/// A system of one core with a reactor's loop.
struct Site {
    catalog: Catalog,
    core: Core,
    uring: Uring,
    system: SystemId,
    private_key: [u8; 32],
    public_key: [u8; 32],
    ended: Vec<IoDone>,
    answers: Vec<(Ticket, Result<OperatorAnswer, String>)>,
    lines: Vec<String>,
    next_origin: u64,
}

fn now() -> Now {
    let time = Time(wall_ns());
    Now { time, mono: Mono(mono_ns()), lease: time.after_ns(10_000_000_000), error_bound_ns: 0 }
}

impl Site {
    fn new(seed: u8) -> Site {
        let (private_key, public_key) = generate_keypair([seed; 32]);
        let system = SystemId::of_key(&public_key);
        let arena = Arena::new(ArenaConfig::new(64 << 20)).unwrap();
        let secondary = SecondaryConfig { receive_bytes: 32 << 20, streams_max: 4, ..SecondaryConfig::default() };
        let config = EngineConfig { primary: PrimaryConfig::new(system), secondary, seed: [seed ^ 0x55; 32] };
        Site {
            catalog: Catalog::new(),
            core: Core::new(arena, config, BTreeMap::new()),
            uring: Uring::new(UringConfig::with_entries(256), None).unwrap(),
            system,
            private_key,
            public_key,
            ended: Vec::new(),
            answers: Vec::new(),
            lines: Vec::new(),
            next_origin: 0,
        }
    }

    fn create(&mut self, spec: Spec) -> BdevId {
        let created = self.catalog.create(spec, 0).unwrap();
        let id = created.device.id();
        self.core.install(created.device);
        id
    }

    fn link(&mut self, endpoint: UdpEndpoint, remote_public_key: [u8; 32], remote: SocketAddr) -> LinkId {
        let config = LinkConfig::new(self.private_key, remote_public_key, Some(remote));
        self.core.link_create(&mut self.uring, config, endpoint).unwrap()
    }

    /// One turn, as a reactor makes it.
    fn turn(&mut self) {
        let mut completions = Vec::new();
        let at = now();
        let idle = self.core.next_timeout(at).map_or(1_000_000, |due| due.since_ns(at.mono)).min(1_000_000);
        self.uring.submit_and_reap(Some(Duration::from_nanos(idle)), &mut completions).unwrap();
        let at = now();
        for completion in completions {
            assert!(token::is_ours(completion.token));
            self.core.on_completion(at, &mut self.uring, completion);
        }
        let outbox = self.core.outbox();
        self.answers.extend(outbox.answers.drain(..).map(|(at, answer)| (at, answer.map_err(|e| e.to_string()))));
        self.lines.append(&mut outbox.lines);
        for persist in std::mem::take(&mut outbox.persists) {
            self.core.persisted(at, &mut self.uring, persist.token);
        }
        self.core.turn(at, &mut self.uring);
        self.core.drain(&mut self.ended);
    }

    fn submit(&mut self, bdev: BdevId, io: Io) -> u64 {
        self.next_origin += 1;
        self.core.submit(now(), &mut self.uring, bdev, io, self.next_origin);
        self.next_origin
    }

    fn submit_write(&mut self, bdev: BdevId, at: Extent, byte: u8) -> u64 {
        let bytes = at.blocks as usize * self.core.volume(bdev).unwrap().1.block_bytes as usize;
        let mut buf = self.core.arena().alloc(bytes).unwrap();
        buf.fill(byte);
        self.submit(bdev, Io::Write { extent: at, data: buf.freeze(), fua: false })
    }

    fn submit_read(&mut self, bdev: BdevId, at: Extent) -> u64 {
        let bytes = at.blocks as usize * self.core.volume(bdev).unwrap().1.block_bytes as usize;
        let mut buf = self.core.arena().alloc(bytes).unwrap();
        buf.fill(0xa5);
        self.submit(bdev, Io::Read { extent: at, buf })
    }

    fn take_ended(&mut self, origin: u64) -> Option<IoDone> {
        let at = self.ended.iter().position(|done| done.origin == origin)?;
        Some(self.ended.swap_remove(at))
    }
}

/// Turns all sites until there is an answer.
fn until<R>(sites: &mut [Site], what: &str, mut look: impl FnMut(&mut [Site]) -> Option<R>) -> R {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(found) = look(sites) {
            return found;
        }
        for site in sites.iter_mut() {
            site.turn();
        }
    }
    panic!("{what} did not come: {:?}", sites.iter().map(|site| &site.lines).collect::<Vec<_>>());
}

fn ended(sites: &mut [Site], site: usize, origin: u64) -> IoDone {
    until(sites, "the end of a request", |sites| sites[site].take_ended(origin))
}

fn read(sites: &mut [Site], site: usize, bdev: BdevId, at: Extent) -> Result<Vec<u8>, IoError> {
    let origin = sites[site].submit_read(bdev, at);
    let done = ended(sites, site, origin);
    done.result.map(|()| done.buf.unwrap().to_vec())
}

fn write(sites: &mut [Site], site: usize, bdev: BdevId, at: Extent, byte: u8) -> Result<(), IoError> {
    let origin = sites[site].submit_write(bdev, at, byte);
    ended(sites, site, origin).result
}

fn endpoint() -> UdpEndpoint {
    let config = UdpConfig { receive_buffer_bytes: 4 << 20, send_buffer_bytes: 4 << 20, dont_fragment: false };
    udp_bind("127.0.0.1:0".parse().unwrap(), &config).unwrap()
}

/// Two systems with a link between them over this machine's loopback; its number at each.
fn two_linked_sites() -> (Vec<Site>, [LinkId; 2]) {
    let mut sites = vec![Site::new(1), Site::new(2)];
    let (one, two) = (endpoint(), endpoint());
    let addresses = [one.local, two.local];
    let keys = [sites[0].public_key, sites[1].public_key];
    let links = [sites[0].link(one, keys[1], addresses[1]), sites[1].link(two, keys[0], addresses[0])];
    until(&mut sites, "a session", |sites| {
        (0..2).all(|site| sites[site].core.engine().link_is_up(links[site])).then_some(())
    });
    (sites, links)
}

#[test]
fn a_request_on_a_file_runs_through_a_core() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let mut sites = [Site::new(1)];
    let filename = file.path().to_owned();
    let spec = Spec::Uring { name: "d".to_owned(), filename, block_size: None, uuid: None };
    let bdev = sites[0].create(spec);
    write(&mut sites, 0, bdev, extent(3, 2), 7).unwrap();
    assert_eq!(read(&mut sites, 0, bdev, extent(3, 2)).unwrap(), vec![7; 1024]);
    assert_eq!(sites[0].core.stats(bdev, ResetMode::All).unwrap().of(IoType::Write).bytes, 1024);
    assert_eq!(sites[0].core.stats(bdev, ResetMode::None), Some(BdevStats::default()));
    assert_eq!(sites[0].core.in_flight(bdev), 0);
}

fn replica(base: &str) -> Spec {
    let (name, base_name) = (format!("{base}.copied"), base.to_owned());
    Spec::Replica { name, base_name, group: "g".to_owned(), pair: base.to_owned(), uuid: Uuid::new_v4() }
}

#[test]
fn a_request_for_a_pair_that_the_engine_does_not_know_is_abandoned_with_its_buffer() {
    let mut sites = [Site::new(1)];
    sites[0].create(malloc("m", 8, 4096));
    let bdev = sites[0].create(replica("m"));
    let origin = sites[0].submit_read(bdev, extent(0, 1));
    let done = ended(&mut sites, 0, origin);
    assert_eq!(done.result, Err(IoError::Aborted));
    assert_eq!(done.buf.unwrap().len(), 4096);
    assert_eq!(sites[0].core.in_flight(bdev), 0);
}

#[test]
fn links_of_two_cores_find_each_other_through_their_sockets() {
    let (mut sites, links) = two_linked_sites();
    assert_eq!(sites[0].core.engine().link_peer(links[0]), Some(sites[1].system));
    assert!(sites[0].core.socket_stats(links[0]).unwrap().datagrams_received > 0);
    let Site { core, uring, .. } = &mut sites[0];
    core.link_delete(now(), uring, links[0]);
    assert_eq!(core.socket_stats(links[0]), None);
    until(&mut sites[..1], "the socket's end", |sites| sites[0].uring.in_flight().eq(&0).then_some(()));
}

#[test]
fn links_of_two_cores_find_each_other_by_a_wire_until_one_is_deleted() {
    let mut sites = vec![Site::new(1), Site::new(2)];
    let addresses = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 4420)));
    let keys = [sites[0].public_key, sites[1].public_key];
    let links = replica::wire(addresses, 8).into_iter().enumerate().map(|(me, wire)| {
        let config = LinkConfig::new(sites[me].private_key, keys[1 - me], Some(addresses[1 - me]));
        sites[me].core.link_wire(config, wire).unwrap()
    });
    let links: Vec<LinkId> = links.collect();
    until(&mut sites, "a session", |sites| {
        (0..2).all(|site| sites[site].core.engine().link_is_up(links[site])).then_some(())
    });
    let [one, two] = [0, 1].map(|site| sites[site].core.socket_stats(links[site]).unwrap());
    assert!(one.trains_received > 0 && one.datagrams_received >= one.trains_received);
    assert!(two.trains_received > 0 && two.trains_received <= one.trains_sent);
    assert_eq!((one.send_errors, two.send_errors), (0, 0));
    let Site { core, uring, .. } = &mut sites[0];
    core.link_delete(now(), uring, links[0]);
    assert_eq!(core.socket_stats(links[0]), None);
}

#[test]
fn a_wire_loses_what_it_has_no_room_for() {
    let mut site = Site::new(1);
    let addresses = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 4420)));
    let [mine, _other] = replica::wire(addresses, 1);
    let config = LinkConfig::new(site.private_key, Site::new(2).public_key, Some(addresses[1]));
    let link = site.core.link_wire(config, mine).unwrap();
    // Nobody takes the calls that it makes.
    let lost = until(std::slice::from_mut(&mut site), "a lost train", |sites| {
        let stats = sites[0].core.socket_stats(link).unwrap();
        (stats.send_errors > 0).then_some(stats)
    });
    assert_eq!(lost.trains_sent, 1);
}

#[test]
fn a_core_does_not_sleep_while_a_batch_is_not_settled() {
    let mut site = Site::new(1);
    let bdev = site.create(malloc("m", 64, 4096));
    let origin = site.submit_write(bdev, extent(3, 1), 7);
    let at = now();
    assert_eq!(site.core.next_timeout(at), Some(at.mono));
    assert!(site.take_ended(origin).is_none());
    site.core.settle(at, &mut site.uring);
    site.core.drain(&mut site.ended);
    assert!(site.take_ended(origin).is_some_and(|done| done.result.is_ok()));
    assert_ne!(site.core.next_timeout(at), Some(at.mono));
}
