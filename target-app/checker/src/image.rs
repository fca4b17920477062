//! What the copy shows: one word for each block of each volume.

use crate::block::{BlockSays, Foreign};
use crate::history::Volume;

/// What every block of every volume showed when it was read back after the takeover. Eight bytes for each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    volumes: Vec<Vec<u64>>,
}

impl Image {
    /// An image of which nothing has been read yet. A block that stays unread fails: a copy that was not looked at
    /// proves nothing.
    pub fn unread(volumes: &[Volume]) -> Self {
        Image::of(volumes, BlockSays::Foreign(Foreign::Unread))
    }

    /// An image of volumes never written.
    pub fn all_initial(volumes: &[Volume]) -> Self {
        Image::of(volumes, BlockSays::Initial)
    }

    fn of(volumes: &[Volume], says: BlockSays) -> Self {
        Image { volumes: volumes.iter().map(|v| vec![says.pack(); v.blocks as usize]).collect() }
    }

    /// Notes what block `lba` of `volume` showed.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn set(&mut self, volume: u16, lba: u64, says: BlockSays) {
        self.volumes[usize::from(volume)][lba as usize] = says.pack();
    }

    /// What block `lba` of `volume` showed.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn get(&self, volume: u16, lba: u64) -> BlockSays {
        BlockSays::unpack(self.volumes[usize::from(volume)][lba as usize])
    }

    pub(crate) fn words(&self) -> &[Vec<u64>] {
        &self.volumes
    }
}
