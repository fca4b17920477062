//! What the target does of NVMe/TCP for one 4 KiB write: reading its command capsule, data along, where it lies in the
//! stream, and putting the response together; without and with both digests. The data's own way is not in it but for its
//! digest: it is received where it stays.
//!
//! The floor is the same bytes copied once: headers alone, or with digests the CRC32C of all that they cover.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_nvmf::Inline;
use longrun_nvmf::pdu::{
    CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_BYTES, Digests, Pdu, Reader, Sender, data_digest, kind, put_header,
    put_header_with_data,
};
use longrun_nvmf::spec::{Cqe, Sqe, opcode};
use std::hint::black_box;
use zerocopy::FromZeros;

const DATA_BYTES: usize = 4096;

/// A write of 4 KiB, as a host sends it.
fn capsule(digests: Digests) -> Vec<u8> {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode::WRITE;
    let header = CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe };
    let mut out = Inline::<128>::default();
    put_header_with_data(&mut out, header, 0, digests, 4, DATA_BYTES as u32);
    let mut bytes = out.as_slice().to_vec();
    bytes.resize(bytes.len() + DATA_BYTES, 0xa5);
    if digests.data {
        bytes.extend(data_digest(&bytes[bytes.len() - DATA_BYTES..]));
    }
    bytes
}

fn pdus(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pdu");
    group.throughput(Throughput::Elements(1));
    for (name, digests) in [("no digests", Digests::from_bits(0)), ("digests", Digests::from_bits(3))] {
        let stream = capsule(digests);
        group.bench_function(BenchmarkId::new("capsule with 4 KiB", name), |bench| {
            let mut reader = Reader::new(Sender::Host);
            bench.iter(|| {
                let stream = black_box(&stream[..]);
                let (used, found) = reader.feed(stream, digests, true);
                let Some(Ok((layout, Pdu::CapsuleCmd(command)))) = found else { panic!("a good capsule: {found:?}") };
                assert_eq!(layout.data_bytes as usize, DATA_BYTES);
                if digests.data {
                    let (data, digest) = stream[used..].split_at(DATA_BYTES);
                    assert_eq!(data_digest(data), digest);
                }
                command.sqe
            });
        });
        group.bench_function(BenchmarkId::new("response", name), |bench| {
            bench.iter(|| {
                let header = CapsuleResp { common: CommonHeader::of(kind::CAPSULE_RESP), cqe: Cqe::new_zeroed() };
                let mut out = Inline::<128>::default();
                put_header(&mut out, black_box(header), 0, digests);
                black_box(out.as_slice().len())
            });
        });
        let header_bytes = stream.len() - DATA_BYTES - if digests.data { DIGEST_BYTES } else { 0 };
        group.bench_function(BenchmarkId::new("floor (bytes copied, digests)", name), |bench| {
            let mut header = vec![0; header_bytes];
            bench.iter(|| {
                let stream = black_box(&stream[..]);
                header.copy_from_slice(&stream[..header_bytes]);
                let of_header = digests.header.then(|| data_digest(&header));
                let of_data = digests.data.then(|| data_digest(&stream[header_bytes..header_bytes + DATA_BYTES]));
                black_box((&header, of_header, of_data)).1
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pdus);
criterion_main!(benches);
