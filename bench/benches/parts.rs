//! The parts that decide how long a backup takes, alone and on one thread.
//!
//! Seconds mean little on a shared machine; what one part takes beside another does.
#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lakebed_core::chunker::{Chunker, ChunkerParameters};
use lakebed_core::codec::compress::{Compressor, Decompressor};
use lakebed_core::hash::object_hash;
use lakebed_core::id::{ChunkId, TreeId};
use lakebed_core::record::tree::{Content, Entry, EntryKind, Node, NodeSink, write_directory};

const FRAME: usize = 1 << 20;

/// Lines as an export has them.
fn lines(bytes: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes + 100);
    let mut number = 1u64;
    while all.len() < bytes {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (id, cents) = (number >> 33, (number >> 20) % 100_000);
        all.extend_from_slice(
            format!("{id},2026-10-{:02},region-{},{}.{:02}\n", id % 28, id % 17, cents / 100, cents % 100).as_bytes(),
        );
    }
    all.truncate(bytes);
    all
}

fn chunking(c: &mut Criterion) {
    let data = lines(8 * FRAME);
    let mut group = c.benchmark_group("cut");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for (name, parameters) in
        [("16 KiB", ChunkerParameters::default()), ("64 KiB", ChunkerParameters::default().coarser())]
    {
        let Ok(chunker) = Chunker::new(&parameters, &[1; 32]) else { continue };
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut left = &data[..];
                let mut chunks = 0;
                while !left.is_empty() {
                    left = &left[chunker.cut(left)..];
                    chunks += 1;
                }
                chunks
            });
        });
    }
    group.finish();
}

fn hashing(c: &mut Criterion) {
    let data = lines(FRAME);
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Bytes(FRAME as u64));
    for piece in [4 << 10, 16 << 10, FRAME] {
        group.bench_function(format!("BLAKE3, {} KiB at a time", piece >> 10), |b| {
            b.iter(|| data.chunks(piece).map(|piece| object_hash(piece).as_bytes()[0]).fold(0, |a, b| a ^ b));
        });
    }
    group.finish();
}

fn compressing(c: &mut Criterion) {
    let data = lines(FRAME);
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Bytes(FRAME as u64));
    for level in [1, 3] {
        let (Ok(mut compressor), mut out) = (Compressor::new(), Vec::new()) else { continue };
        group.bench_function(format!("zstd {level}"), |b| {
            b.iter(|| compressor.compress(level, &data, &mut out).is_ok())
        });
    }
    if let (Ok(mut compressor), Ok(mut decompressor)) = (Compressor::new(), Decompressor::new()) {
        let (mut packed, mut plain) = (Vec::new(), Vec::new());
        if compressor.compress(3, &data, &mut packed).is_ok() {
            group.bench_function("zstd -d", |b| {
                b.iter(|| decompressor.decompress(&packed, data.len(), &mut plain).is_ok());
            });
        }
    }
    group.finish();
}

/// Takes nodes and names them in order.
#[derive(Default)]
struct Counting(u64, Vec<Vec<u8>>);

impl NodeSink for Counting {
    type Error = std::convert::Infallible;

    fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId, Self::Error> {
        self.0 += 1;
        self.1.push(bytes);
        let mut id = [7; 32];
        id[..8].copy_from_slice(&self.0.to_be_bytes());
        Ok(TreeId::new(id))
    }
}

fn trees(c: &mut Criterion) {
    let entry = |number: u64| {
        let mut entry = Entry::new(format!("notebook-{number:06}.py"), EntryKind::File);
        entry.size = 4000 + number;
        entry.inode = number;
        entry.content = Content::Chunk(ChunkId::new([number as u8; 32]));
        entry
    };
    let entries: Vec<Entry> = (0..10_000).map(entry).collect();
    let mut group = c.benchmark_group("tree");
    group.throughput(Throughput::Elements(entries.len() as u64));
    group.bench_function("write 10,000 entries", |b| {
        b.iter_batched(
            || entries.clone(),
            |entries| write_directory(entries, &mut Counting::default()),
            BatchSize::LargeInput,
        );
    });
    let mut sink = Counting::default();
    let Ok(_) = write_directory(entries, &mut sink);
    group.bench_function("read 10,000 entries", |b| {
        b.iter(|| sink.1.iter().filter(|bytes| Node::decode(bytes).is_ok()).count());
    });
    group.finish();
}

criterion_group!(parts, chunking, hashing, compressing, trees);
criterion_main!(parts);
