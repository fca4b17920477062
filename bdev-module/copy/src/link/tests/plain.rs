//! Links without security: who is taken for whom.

use super::super::*;
use super::world::{Network, S, World, addr, insecure, push, seed};
use super::{STREAM, lossy};
use std::net::Ipv4Addr;

/// Two links without security, whose ends were told of the other's key or were not.
fn told(number: u64, net: Network, told: [bool; 2]) -> World {
    let mut world = World::new(number, net, insecure);
    for (own, was_told) in told.into_iter().enumerate() {
        if !was_told {
            make(&mut world, own, |config| config.remote_public_key = None);
        }
    }
    world
}

fn make(world: &mut World, own: usize, change: impl Fn(&mut LinkConfig)) {
    let mut config = world.links[own].config().clone();
    change(&mut config);
    world.links[own] = Link::new(config, seed(own as u64, 77)).unwrap();
}

fn is_down_for_good(mut world: World) -> bool {
    world.run(10 * S);
    let unanswered = |link: &Link<super::Payload>| link.stats().handshakes_answered == 0;
    world.links.iter().all(|link| !link.session_is_up() && unanswered(link))
}

#[test]
fn a_plain_link_comes_up_whether_its_ends_were_told_keys_or_not() {
    for number in 0..32 {
        let ends = [number & 1 == 0, number & 2 == 0];
        let net = if number % 8 < 4 { Network::clean() } else { lossy() };
        let mut world = told(number, net, ends);
        world.up();
        world.open(STREAM);
        let records = push(&mut world, STREAM, 1..30);
        world.drain(STREAM, &records, 20 * S);
        world.restart(1, 5);
        world.until(20 * S, "a session with the new process", |world| {
            world.ends[1].ups > 0 && world.ends[0].ups > 1 && world.links.iter().all(Link::session_is_up)
        });
    }
}

#[test]
fn two_that_were_told_no_key_agree_at_once_which_of_their_calls_stands() {
    for number in 0..20 {
        let mut world = told(number, Network::clean(), [false, false]);
        // A round trip and a half; if both insisted, nothing would come up before they tire of it.
        world.until(S / 20, "both ends up", |world| world.links.iter().all(Link::session_is_up));
    }
}

#[test]
fn a_key_that_was_told_is_compared_without_security_too() {
    let (_, stranger) = generate_keypair([9; 32]);
    for (own, other_was_told) in [(0, true), (0, false), (1, true), (1, false)] {
        let ends = if own == 0 { [true, other_was_told] } else { [other_was_told, true] };
        let mut world = told(40, Network::clean(), ends);
        make(&mut world, own, |config| config.remote_public_key = Some(stranger));
        assert!(is_down_for_good(world), "end {own} expects another, the other end was told: {other_was_told}");
    }
}

#[test]
fn who_was_told_no_key_is_called_from_the_configured_address_alone() {
    let mut world = told(41, Network::clean(), [false, false]);
    let mut initiation = vec![0; TRAIN_BYTES_MAX];
    let now = world.now();
    let train = world.links[0].poll_transmit(now, &mut initiation).unwrap();
    initiation.truncate(train.bytes);
    let moved = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), addr(0).port()));
    for (from, answered) in [(addr(7), 0), (moved, 0), (addr(0), 1)] {
        world.links[1].handle_datagrams(now, from, &mut initiation.clone(), 0, &mut world.ends[1]);
        assert_eq!(world.links[1].stats().handshakes_answered, answered, "called from {from}");
    }
    // With keys the address says nothing.
    let mut world = told(41, Network::clean(), [true, true]);
    make(&mut world, 1, |config| config.remote_addr = None);
    world.up();
}

#[test]
fn a_plain_link_never_joins_a_system_with_itself_or_with_a_copy_of_its_key() {
    let mut world = told(42, Network::clean(), [false, false]);
    let own_key = world.links[0].config().local_private_key;
    make(&mut world, 1, |config| config.local_private_key = own_key);
    assert!(is_down_for_good(world));
}

#[test]
fn the_system_behind_a_plain_link_is_its_key_and_else_its_address() {
    let (private, _) = generate_keypair([1; 32]);
    let (_, public) = generate_keypair([2; 32]);
    let peer = |key: Option<[u8; 32]>, at: usize| {
        let config = LinkConfig { remote_public_key: key, ..LinkConfig::plain(private, addr(at)) };
        Link::<super::Payload>::new(config, [3; 32]).unwrap().peer()
    };
    assert_eq!(peer(Some(public), 1), SystemId::of_key(&public));
    assert_eq!(peer(Some(public), 1), peer(Some(public), 2));
    assert_eq!(peer(None, 1), peer(None, 1));
    assert_ne!(peer(None, 1), peer(None, 2), "two links to two unnamed systems are two systems");
    assert_ne!(peer(None, 1), peer(Some(public), 1));
}

#[test]
fn a_link_is_told_who_is_meant() {
    let (private, own) = generate_keypair([1; 32]);
    let plain = LinkConfig::plain(private, addr(1));
    assert_eq!(plain.check(), Ok(()));
    let nobody = LinkConfig { remote_addr: None, ..plain.clone() };
    assert_eq!(nobody.check(), Err(LinkConfigError::NobodyMeant));
    let keyless = LinkConfig { security: Security::Noise, ..plain.clone() };
    assert_eq!(keyless.check(), Err(LinkConfigError::KeyMissing));
    let itself = LinkConfig { remote_public_key: Some(own), ..plain };
    assert_eq!(itself.check(), Err(LinkConfigError::OwnKey));
}
