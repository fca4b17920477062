//! NVMe/TCP: what hosts send. The first byte is the fuzz target's: how far a good host came before, and the sizes of the
//! receives.

use crate::Bytes;

const IC_REQ: u8 = 0;
const CAPSULE_CMD: u8 = 4;
const CAPSULE_RESP: u8 = 5;
const H2C_DATA: u8 = 6;
const C2H_DATA: u8 = 7;
const R2T: u8 = 9;

/// How far the good host came: nothing, or Connect of the admin queue; in receives of up to 1009 bytes.
const FRESH: u8 = 0xfc;
const CONNECTED: u8 = 0xfe;
/// An I/O queue of a controller that is up; and that in receives of one byte.
const IO: u8 = 0xff;
const IO_BYTES: u8 = 3;

fn pdu(kind: u8, flags: u8, header: &[u8], data: &[u8]) -> Vec<u8> {
    let hlen = 8 + header.len();
    let pdo = if data.is_empty() { 0 } else { hlen };
    let common = Bytes::default().byte(kind).byte(flags).byte(hlen as u8).byte(pdo as u8);
    common.u32((hlen + data.len()) as u32).raw(header).raw(data).0
}

/// A submission queue entry. `sgl` is a whole descriptor.
fn entry(opcode: u8, cid: u16, nsid: u32, sgl: [u8; 16], dwords: [u32; 6]) -> Vec<u8> {
    let mut entry = Bytes::default().byte(opcode).byte(0x40).u16(cid).u32(nsid).raw(&[0; 16]).raw(&sgl);
    for dword in dwords {
        entry = entry.u32(dword);
    }
    assert_eq!(entry.0.len(), 64, "the entry's layout");
    entry.0
}

fn in_capsule(bytes: u32) -> [u8; 16] {
    descriptor(bytes, 0x01)
}

fn by_transfer(bytes: u32) -> [u8; 16] {
    descriptor(bytes, 0x5a)
}

fn descriptor(bytes: u32, kind: u8) -> [u8; 16] {
    let mut sgl = [0; 16];
    sgl[8..12].copy_from_slice(&bytes.to_le_bytes());
    sgl[15] = kind;
    sgl
}

fn ic_req(digests: u8) -> Vec<u8> {
    let mut header = [0; 120];
    header[3] = digests;
    pdu(IC_REQ, 0, &header, &[])
}

fn connect(cid: u16, qid: u16, cntlid: u16) -> Vec<u8> {
    let mut entry = entry(0x7f, cid, 0, in_capsule(1024), [u32::from(qid) << 16, 31, 0, 0, 0, 0]);
    entry[4] = 0x01;
    let mut data = vec![0; 1024];
    data[16..18].copy_from_slice(&cntlid.to_le_bytes());
    for (at, name) in [(256, b"nqn.2026-11.io.longrun:fuzz"), (512, b"nqn.2026-11.io.longrun:host")] {
        data[at..][..name.len()].copy_from_slice(name);
    }
    pdu(CAPSULE_CMD, 0, &entry, &data)
}

fn fabrics(kind: u8, cid: u16, sgl: [u8; 16], dwords: [u32; 6], data: &[u8]) -> Vec<u8> {
    let mut entry = entry(0x7f, cid, 0, sgl, dwords);
    entry[4] = kind;
    pdu(CAPSULE_CMD, 0, &entry, data)
}

/// The controller's enabling: property set of CC.
fn enable(cid: u16) -> Vec<u8> {
    fabrics(0x00, cid, [0; 16], [0, 0x14, 0x0046_0001, 0, 0, 0], &[])
}

/// Admin commands as a Linux host sends them.
fn admin() -> Vec<Vec<u8>> {
    let mut commands = vec![
        fabrics(0x04, 2, [0; 16], [1, 0, 0, 0, 0, 0], &[]),
        fabrics(0x04, 3, [0; 16], [0, 0x1c, 0, 0, 0, 0], &[]),
        enable(4),
    ];
    let mut capsule = |opcode, nsid, bytes, dwords| {
        let cid = 5 + commands.len() as u16;
        let sgl = if bytes == 0 { [0; 16] } else { by_transfer(bytes) };
        commands.push(pdu(CAPSULE_CMD, 0, &entry(opcode, cid, nsid, sgl, dwords), &[]));
    };
    for cns in [0, 1, 2, 3, 6, 8, 0x10, 0x1c] {
        capsule(0x06, 1, 4096, [cns, 0, 0, 0, 0, 0]);
    }
    for page in [1, 2, 3, 4, 5, 0x70] {
        capsule(0x02, u32::MAX, 512, [page | 127 << 16, 0, 0, 0, 0, 0]);
    }
    for feature in [1, 2, 4, 5, 7, 0xb, 0xf, 0x16] {
        capsule(0x09, 0, 0, [feature, 0x0003_0003, 0, 0, 0, 0]);
        capsule(0x0a, 0, 0, [feature, 0, 0, 0, 0, 0]);
    }
    capsule(0x0c, 0, 0, [0; 6]);
    capsule(0x08, 0, 0, [5 << 16, 0, 0, 0, 0, 0]);
    capsule(0x18, 0, 0, [0; 6]);
    commands
}

/// I/O commands, and the data that the second one is asked for.
fn io() -> Vec<Vec<u8>> {
    let data = |bytes: usize| vec![0x5a; bytes];
    let command = |opcode, sgl, blocks: u32| entry(opcode, 9, 1, sgl, [8, 0, blocks - 1, 0, 0, 0]);
    vec![
        pdu(CAPSULE_CMD, 0, &command(0x01, in_capsule(512), 1), &data(512)),
        pdu(CAPSULE_CMD, 0, &command(0x01, by_transfer(65536), 128), &[]),
        pdu(CAPSULE_CMD, 0, &command(0x02, by_transfer(4096), 8), &[]),
        pdu(CAPSULE_CMD, 0, &command(0x00, [0; 16], 1), &[]),
        pdu(CAPSULE_CMD, 0, &command(0x08, [0; 16], 8), &[]),
        pdu(CAPSULE_CMD, 0, &entry(0x09, 9, 1, in_capsule(16), [0, 4, 0, 0, 0, 0]), &data(16)),
        pdu(H2C_DATA, 0, &Bytes::default().u16(9).u16(0).u32(0).u32(4096).u32(0).0, &data(4096)),
    ]
}

/// What a target sends, for the host's side.
fn from_target() -> Vec<Vec<u8>> {
    let completion = |cid, status: u16| Bytes::default().u64s([1]).u16(0).u16(0).u16(cid).u16(status << 1).0;
    vec![
        pdu(
            1,
            0,
            &{
                let mut header = [0; 120];
                header[4..8].copy_from_slice(&131_072u32.to_le_bytes());
                header
            },
            &[],
        ),
        pdu(CAPSULE_RESP, 0, &completion(0, 0), &[]),
        pdu(CAPSULE_RESP, 0, &completion(1, 0x4002), &[]),
        pdu(C2H_DATA, 4 | 8, &Bytes::default().u16(1).u16(0).u32(0).u32(4096).u32(0).0, &[0x11; 4096]),
        pdu(R2T, 0, &Bytes::default().u16(1).u16(3).u32(0).u32(65536).u32(0).0, &[]),
        pdu(3, 0, &Bytes::default().u16(1).u32(0).raw(&[0; 10]).0, &[0; 8]),
    ]
}

/// Valid conversations and their parts.
pub fn seeds() -> Vec<Vec<u8>> {
    let after = |control: u8, parts: &[Vec<u8>]| {
        let mut seed = vec![control];
        parts.iter().for_each(|part| seed.extend_from_slice(part));
        seed
    };
    let mut seeds = vec![
        after(FRESH, &[ic_req(0), connect(1, 0, 0xffff)]),
        after(FRESH, &[ic_req(3)]),
        after(FRESH, &[ic_req(0), connect(1, 1, 1)]),
        after(FRESH, &[ic_req(0), connect(1, 0, 0xffff), enable(2), enable(3)]),
        after(CONNECTED, &admin()),
    ];
    for command in admin() {
        seeds.push(after(CONNECTED, &[enable(4), command]));
    }
    for command in io() {
        seeds.push(after(IO, &[command.clone()]));
        seeds.push(after(IO_BYTES, &[command.clone()]));
        // Where they do not belong.
        seeds.push(after(CONNECTED, &[enable(4), command]));
    }
    seeds.push(after(IO, &io()));
    // A write whose data comes when it is asked for.
    let [write, data] = [1, 6].map(|at| io()[at].clone());
    seeds.push(after(IO, &[write, data]));
    for answer in from_target() {
        seeds.push(after(0, &[answer.clone()]));
        seeds.push(after(0xf3, &[answer]));
    }
    seeds
}
