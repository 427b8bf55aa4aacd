//! The blocks of a CAR as iroh-car reads them, which is what the program's own reader is held against.

use ipld_core::cid::Cid;

/// All blocks, in their order. No bytes at all, as a commit without blocks has them, are no blocks.
pub fn blocks(car: &[u8]) -> Vec<(Cid, Vec<u8>)> {
    if car.is_empty() {
        return Vec::new();
    }
    pollster::block_on(async {
        let mut reader = iroh_car::CarReader::new(car).await.expect("a CAR");
        let mut blocks = Vec::new();
        while let Some((cid, block)) = reader.next_block().await.expect("a block") {
            blocks.push((Cid::try_from(&cid.to_bytes()[..]).expect("a CID"), block));
        }
        blocks
    })
}
