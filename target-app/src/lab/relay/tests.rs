use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::{Fate, Fates, Impairment, Relay};

const NONE: Impairment = Impairment { loss: 0.0, reorder: 0.0, duplicate: 0.0, delay: Duration::ZERO, seed: 1 };

fn ends(impairment: Impairment) -> (UdpSocket, UdpSocket, Relay) {
    let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    for end in [&a, &b] {
        socket2::SockRef::from(end).set_recv_buffer_size(16 << 20).unwrap();
        end.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let relay = Relay::start(a.local_addr().unwrap(), b.local_addr().unwrap(), impairment).unwrap();
    a.connect(relay.facing_a()).unwrap();
    b.connect(relay.facing_b()).unwrap();
    (a, b, relay)
}

fn received(end: &UdpSocket) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(bytes) = end.recv(&mut buffer) {
        assert!(bytes >= 4);
        numbers.push(u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
    }
    numbers
}

fn send(end: &UdpSocket, count: u32, pause_every: u32) {
    let mut datagram = [0; 1400];
    for number in 0..count {
        datagram[..4].copy_from_slice(&number.to_le_bytes());
        end.send(&datagram).unwrap();
        if number % pause_every == pause_every - 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_network_without_faults_passes_all_in_order_both_ways() {
    let (a, b, relay) = ends(NONE);
    send(&a, 500, 100);
    assert!(received(&b).into_iter().eq(0..500));
    send(&b, 500, 100);
    assert!(received(&a).into_iter().eq(0..500));
    assert_eq!((relay.counts().frames, relay.counts().dropped), (1000, 0));
}

#[test]
fn faults_come_about_as_often_as_asked_and_are_counted() {
    let impairment = Impairment { loss: 0.1, reorder: 0.2, duplicate: 0.05, delay: Duration::from_millis(5), ..NONE };
    let (a, b, relay) = ends(impairment);
    let sender = std::thread::spawn(move || {
        send(&a, 10_000, 50);
        a
    });
    let got = received(&b);
    drop(sender.join().unwrap());
    let counts = relay.counts();
    assert_eq!(counts.frames, 10_000);
    assert!((800..1200).contains(&counts.dropped), "{counts:?}");
    assert!((1500..2100).contains(&counts.reordered), "{counts:?}");
    assert!((300..600).contains(&counts.duplicated), "{counts:?}");
    assert_eq!(got.len() as u64, counts.frames - counts.dropped + counts.duplicated);
    let overtaken = got.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(overtaken > 500, "{overtaken} datagrams were overtaken");
}

#[test]
fn the_delay_is_kept() {
    let (a, b, _relay) = ends(Impairment { delay: Duration::from_millis(30), ..NONE });
    let sent = Instant::now();
    send(&a, 1, 1);
    b.recv(&mut [0; 2048]).unwrap();
    assert!(sent.elapsed() >= Duration::from_millis(30), "{:?}", sent.elapsed());
}

#[test]
fn nothing_passes_after_the_cut() {
    let (a, b, relay) = ends(NONE);
    send(&a, 1, 1);
    assert_eq!(received(&b), [0]);
    relay.cut();
    send(&a, 10, 10);
    assert!(received(&b).is_empty());
    assert_eq!(relay.counts().dropped, 10);
}

#[test]
fn the_same_seed_draws_the_same_fates_and_another_seed_others() {
    let drawn = |seed, direction| {
        let impairment = Impairment { loss: 0.1, reorder: 0.2, duplicate: 0.05, delay: Duration::from_millis(5), seed };
        let mut fates = Fates::new(impairment, direction);
        (0..1000).map(|_| fates.draw()).collect::<Vec<Fate>>()
    };
    assert_eq!(drawn(7, 0), drawn(7, 0));
    assert_ne!(drawn(7, 0), drawn(7, 1));
    assert_ne!(drawn(7, 0), drawn(8, 0));
}

#[test]
fn thirty_thousand_datagrams_a_second_pass() {
    let (a, b, relay) = ends(Impairment { delay: Duration::from_millis(5), ..NONE });
    let receiver = std::thread::spawn(move || received(&b).len());
    let begun = Instant::now();
    send(&a, 30_000, 60);
    let passed = receiver.join().unwrap();
    let took = begun.elapsed() - Duration::from_millis(300);
    // A machine busy with other tests may take longer to send; what came must have gone through all the same.
    assert_eq!(passed as u64, relay.counts().frames, "in {took:?}");
    assert!(passed > 29_000, "{passed} in {took:?}");
}
