use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A device in memory that remembers every state that it was in.
#[derive(Clone)]
struct Memory {
    block_bytes: usize,
    bytes: Rc<RefCell<Vec<u8>>>,
    /// The device before each write.
    past: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Writes are carried out and fail all the same.
    fails: Rc<Cell<bool>>,
}

impl Memory {
    fn new(block_bytes: usize, bytes: usize) -> Memory {
        // What was on the device before the file, but for the header.
        let mut content = vec![0xee; bytes];
        content[..block_bytes].fill(0);
        Memory::holding(block_bytes, content)
    }

    fn holding(block_bytes: usize, bytes: Vec<u8>) -> Memory {
        let bytes = Rc::new(RefCell::new(bytes));
        Memory { block_bytes, bytes, past: Rc::default(), fails: Rc::default() }
    }
}

impl BlockDevice for Memory {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn blocks(&self) -> u64 {
        (self.bytes.borrow().len() / self.block_bytes) as u64
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        assert_eq!(data.len() % self.block_bytes, 0);
        let at = lba as usize * self.block_bytes;
        data.copy_from_slice(&self.bytes.borrow()[at..at + data.len()]);
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(data.len() % self.block_bytes, 0);
        self.past.borrow_mut().push(self.bytes.borrow().clone());
        let at = lba as usize * self.block_bytes;
        self.bytes.borrow_mut()[at..at + data.len()].copy_from_slice(data);
        if self.fails.get() { Err(DeviceError::Gone) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

const BYTES: usize = 64 << 10;

#[derive(Clone, Debug)]
enum Step {
    Create,
    Remove,
    Length(u64),
    Write(u64, Vec<u8>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Create),
        Just(Step::Remove),
        (0..20_000u64).prop_map(Step::Length),
        (0..20_000u64, prop::collection::vec(any::<u8>(), 1..6000)).prop_map(|(at, data)| Step::Write(at, data)),
        Just(Step::Reopen),
    ]
}

proptest! {
    #[test]
    fn a_file_on_a_device_reads_like_a_file(
        block_bytes in prop_oneof![Just(512usize), Just(4096)],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let device = Memory::new(block_bytes, BYTES);
        let mut file = DeviceFile::open(device.clone()).unwrap();
        let mut model: Option<Vec<u8>> = None;
        for step in steps {
            match step {
                Step::Create => {
                    file.create().unwrap();
                    model.get_or_insert_default();
                }
                Step::Remove => {
                    file.remove().unwrap();
                    model = None;
                }
                Step::Length(length) => {
                    file.set_length(length).unwrap();
                    model.get_or_insert_default().resize(length as usize, 0);
                }
                Step::Write(at, data) => {
                    file.write(at, &data).unwrap();
                    let model = model.get_or_insert_default();
                    let (at, end) = (at as usize, at as usize + data.len());
                    model.resize(model.len().max(end), 0);
                    model[at..end].copy_from_slice(&data);
                }
                Step::Reopen => file = DeviceFile::open(device.clone()).unwrap(),
            }
            prop_assert_eq!(file.length(), model.as_ref().map(|model| model.len() as u64));
            let all = file.read(0, BYTES).unwrap();
            prop_assert_eq!(&all, model.as_deref().unwrap_or_default());
            prop_assert_eq!(file.read(777, 1000).unwrap(), all.get(777..all.len().min(1777)).unwrap_or_default());
        }
    }
}

#[test]
fn a_write_that_makes_the_file_longer_and_is_cut_leaves_the_file_as_it_was() {
    for block_bytes in [512, 4096] {
        let device = Memory::new(block_bytes, BYTES);
        let mut file = DeviceFile::open(device.clone()).unwrap();
        file.write(0, b"as it was").unwrap();
        let before = device.past.borrow().len();
        file.write(9_000, &[7; 5_000]).unwrap();
        let past = device.past.borrow();
        assert!(past.len() > before + 1, "the bytes and the length are two writes");
        for cut in &past[before..] {
            let mut then = DeviceFile::open(Memory::holding(block_bytes, cut.clone())).unwrap();
            assert_eq!(then.length(), Some(9));
            assert_eq!(then.read(0, BYTES).unwrap(), b"as it was");
        }
    }
}

#[test]
fn a_file_beyond_the_device_is_refused_and_changes_nothing() {
    let mut file = DeviceFile::open(Memory::new(512, BYTES)).unwrap();
    file.write(0, &[1; 100]).unwrap();
    let most = file.most();
    let full = |wanted| Err(FileError::Full { wanted, most });
    assert_eq!(file.write(most - 10, &[2; 11]), full(most + 1));
    assert_eq!(file.set_length(most + 5), full(most + 5));
    assert_eq!(file.write(u64::MAX, &[2; 11]), full(u64::MAX));
    assert_eq!(file.read(0, BYTES).unwrap(), [1; 100]);
    file.write(most - 10, &[2; 10]).unwrap();
    assert_eq!(file.length(), Some(most));
}

#[test]
fn a_header_that_is_damaged_is_no_empty_file() {
    let device = Memory::new(512, BYTES);
    DeviceFile::open(device.clone()).unwrap().write(0, &[1; 100]).unwrap();
    for at in 0..size_of::<Header>() {
        let mut bytes = device.bytes.borrow().clone();
        bytes[at] ^= 0x10;
        let opened = DeviceFile::open(Memory::holding(512, bytes)).map(|file| file.length());
        assert!(matches!(opened, Err(FileError::Header(_))), "byte {at}: {opened:?}");
    }
}

#[test]
fn a_write_of_parts_of_blocks_keeps_the_rest_of_them() {
    let old: Vec<u8> = (0..3000u32).map(|at| at as u8).collect();
    for (at, bytes) in [(0, 1), (0, 100), (0, 512), (100, 10), (100, 412), (511, 2), (511, 514), (512, 513), (1, 2998)]
    {
        // A file that has just been written, and one that has just been opened.
        for is_new in [true, false] {
            let device = Memory::new(512, BYTES);
            let mut file = DeviceFile::open(device.clone()).unwrap();
            file.write(0, &old).unwrap();
            if is_new {
                file = DeviceFile::open(device).unwrap();
            }
            file.write(at, &vec![0xaa; bytes]).unwrap();
            let mut expected = old.clone();
            expected[at as usize..at as usize + bytes].fill(0xaa);
            assert!(file.read(0, BYTES).unwrap() == expected, "{bytes} bytes at {at}");
        }
    }
}

#[test]
fn after_a_write_that_failed_the_device_is_asked_what_it_holds() {
    let device = Memory::new(512, BYTES);
    let mut file = DeviceFile::open(device.clone()).unwrap();
    file.write(0, &[1; 300]).unwrap();
    device.fails.set(true);
    assert_eq!(file.write(100, &[2; 100]), Err(DeviceError::Gone.into()));
    device.fails.set(false);
    // The failed one is on the device; the next beside it must not undo it.
    file.write(250, &[3; 50]).unwrap();
    let expected = [vec![1; 100], vec![2; 100], vec![1; 50], vec![3; 50]].concat();
    assert_eq!(file.read(0, BYTES).unwrap(), expected);
}
