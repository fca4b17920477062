use super::*;

#[test]
fn the_first_data_byte_is_found_wherever_it_is() {
    for len in [0, 1, 63, 64, 65, 200] {
        assert_eq!(first_data_byte(&vec![0; len]), None);
        for at in 0..len {
            let mut data = vec![0; len];
            data[at] = 1;
            data[len - 1] = 1;
            assert_eq!(first_data_byte(&data), Some(at));
        }
    }
}

mod world {
    use super::*;
    use crate::engine::OperatorError;
    use crate::ports::*;
    use crate::types::LinkId;
    use std::net::SocketAddr;

    /// Answers nothing by itself; has memory for `buffers` reads.
    #[derive(Default)]
    pub struct World {
        pub buffers: usize,
        pub reads: Vec<(Extent, LocalToken, Vec<u8>)>,
    }

    impl Memory for World {
        type Buf = Vec<u8>;
        type Shared = Vec<u8>;

        fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
            self.buffers = self.buffers.checked_sub(1)?;
            Some(vec![0xff; bytes])
        }

        fn freeze(&mut self, buf: Vec<u8>, _: usize) -> Vec<u8> {
            buf
        }
    }

    impl Ports for World {
        fn local(&mut self, _: VolumeId, io: LocalIo<Vec<u8>, Vec<u8>>, token: LocalToken) {
            let LocalIo::Read { extent, buf } = io else { panic!("a check only reads") };
            self.reads.push((extent, token, buf));
        }

        fn complete_host(&mut self, _: HostToken, _: Result<(), HostError>, _: Option<Vec<u8>>) {}
        fn transmit(&mut self, _: LinkId, _: SocketAddr, _: Vec<u8>, _: usize, _: usize) {}
        fn persist(&mut self, _: &str, _: &[u8], _: MetaToken) {}
        fn recall(&self, _: &str) -> Option<Vec<u8>> {
            None
        }
        fn answer_operator(&mut self, _: Ticket, _: Result<OperatorAnswer, OperatorError>) {}
        fn log(&mut self, _: std::fmt::Arguments<'_>) {}
    }
}

/// Runs a check of a volume of `blocks` 512-byte blocks with data in block `data`, `buffers` at a time; `fails` is a
/// block whose read fails. Returns the verdict and how many blocks were read.
fn check(blocks: u64, data: Option<u64>, fails: Option<u64>, buffers: usize) -> (Verdict, u64) {
    let geometry = Geometry { blocks, block_bytes: 512 };
    let mut check = BlankCheck::new(VolumeId(0), geometry);
    let mut world = world::World { buffers, ..Default::default() };
    let mut id = 0;
    let mut token = || {
        id += 1;
        LocalToken { owner: crate::ports::Owner::Primary, id }
    };
    let mut covered = vec![false; blocks as usize];
    loop {
        check.poll(&mut world, &mut token);
        assert!(world.reads.len() <= buffers.min(READS_MAX));
        if let Some(verdict) = check.verdict() {
            assert!(world.reads.is_empty(), "over while reads are in flight");
            return (verdict, covered.iter().filter(|covered| **covered).count() as u64);
        }
        // The newest first: devices end I/O in any order.
        let (extent, token, mut buf) = world.reads.pop().expect("a check that is not over reads");
        world.buffers += 1;
        buf.fill(0);
        for lba in extent.range() {
            assert!(!std::mem::replace(&mut covered[lba as usize], true), "block {lba} is read twice");
            if data == Some(lba) {
                buf[(lba - extent.lba) as usize * 512 + 511] = 1;
            }
        }
        let failed = fails.is_some_and(|lba| extent.range().contains(&lba));
        let result = if failed { Err(DeviceError { errno: 5 }) } else { Ok(()) };
        check.done(token, result, Some(&buf));
        assert!(check.progress().checked_bytes <= check.progress().total_bytes);
    }
}

#[test]
fn a_volume_is_blank_only_if_every_block_was_read_and_is_zero() {
    for blocks in [1, 2047, 2048, 2049, 20_000] {
        for buffers in [1, 2, 100] {
            assert_eq!(check(blocks, None, None, buffers), (Verdict::Blank, blocks));
            let (verdict, _) = check(blocks, Some(blocks - 1), None, buffers);
            assert_eq!(verdict, Verdict::HasData { lba: blocks - 1 });
        }
    }
}

#[test]
fn a_check_ends_early_at_the_first_data_and_at_a_failed_read() {
    let (verdict, read) = check(100_000, Some(5), None, 1);
    assert_eq!(verdict, Verdict::HasData { lba: 5 });
    assert_eq!(read, 2048);
    let (verdict, _) = check(100_000, None, Some(4100), 1);
    assert_eq!(verdict, Verdict::Unreadable { lba: 4096, error: DeviceError { errno: 5 } });
}
