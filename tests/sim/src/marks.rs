//! Promise 3: whatever the secondary's image lacks is under a mark that a crash would leave.

use crate::world::World;
use longrun_copy::dirty;

impl World {
    /// Each sector of a primary volume that is not what the secondary durably has (replayed), lies in a region that is
    /// marked, durably: also while its records are queued, because the process that holds the queue may die now.
    pub fn check_marks(&mut self, node: usize) {
        if self.are_deleted {
            return;
        }
        for pair in self.pairs.iter().filter(|pair| pair.primary == node) {
            let info = &mut self.groups[pair.group];
            if info.certificate.is_some() || info.has_rotten {
                continue;
            }
            let point = info.reported;
            let mut changed: Vec<u64> = info.history.changed_after(pair.id, point).collect();
            if changed.is_empty() {
                continue;
            }
            self.totals.marks_checked += 1;
            changed.sort_unstable();
            changed.dedup();
            let region_sectors = dirty::region_bytes(pair.geometry) / crate::disk::SECTOR_BYTES as u64;
            let mut seen: Option<(u64, bool)> = None;
            info.history.image(pair.id, point);
            for sector in changed {
                let region = sector / region_sectors;
                let is_marked = match seen {
                    Some((of, is_marked)) if of == region => is_marked,
                    _ => {
                        let chunk = (region / dirty::CHUNK_REGIONS) as u32;
                        let value = self.nodes[node].durable_meta.get(&dirty::chunk_key(pair.id, chunk));
                        // The bits are the last bytes of the value.
                        let bits = value.and_then(|value| {
                            value.len().checked_sub(dirty::CHUNK_REGIONS as usize / 8).map(|at| &value[at..])
                        });
                        let bit = (region % dirty::CHUNK_REGIONS) as usize;
                        bits.is_some_and(|bits| bits[bit / 8] >> (bit % 8) & 1 == 1)
                    }
                };
                seen = Some((region, is_marked));
                if is_marked {
                    continue;
                }
                // In the journal it is safe too, though in a resync it is not part of the image yet.
                if let Some((stream, epoch, seq)) = info.history.writer(pair.id, sector)
                    && info.journaled.get(&(stream, epoch)).is_some_and(|durable| *durable >= seq)
                {
                    continue;
                }
                let (here, there) = info.history.both(pair.id, sector);
                assert!(
                    here.is_same(there),
                    "promise 3 (no silent loss): sector {sector} of pair {} of group {} is not what the secondary has at \
                     {point}, and its region {region} is not marked; {}",
                    pair.name,
                    info.name,
                    info.history.about(pair.id, sector)
                );
            }
        }
    }
}
