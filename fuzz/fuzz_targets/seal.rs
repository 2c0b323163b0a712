//! Any bytes as a signed, sealed or compressed record: verified, opened or expanded, or an error; never a panic, never more
//! memory than the bound, and never a message that the key did not make.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::model::{Channel, Properties, Record, tag};
use tidegate::seal::{
    PublicKeys, SealingKey, SealingKeys, SigningKey, compress, expand_into, expand_record, expanded_len, open, verify,
};

const MAX: usize = 64 * 1_024;

fuzz_target!(|bytes: &[u8]| {
    let signing = SigningKey::from_seed(&[1; 32]);
    let public: PublicKeys = [signing.public()].into_iter().collect();
    let sealing: SealingKeys = [SealingKey::from_bytes(&[2; 32])].into_iter().collect();
    let _ = std::str::from_utf8(bytes).map(|text| (PublicKeys::parse(text), SealingKeys::parse(text)));

    let mut plain = Vec::new();
    if expand_into(bytes, MAX, &mut plain).is_ok() {
        assert_eq!(expanded_len(bytes), Ok(plain.len()));
    }
    assert!(plain.capacity() <= MAX);
    if let Some(compressed) = compress(bytes) {
        expand_into(&compressed, bytes.len(), &mut plain).expect("its own");
        assert_eq!(plain, bytes);
    }

    if let Ok(Some(expanded)) = expand_record(bytes, MAX) {
        assert!(expanded.len() <= MAX);
        judge(&Record::decode(&expanded).expect("a record"), &public, &sealing);
    }
    if let Ok(record) = Record::decode(bytes) {
        judge(&record, &public, &sealing);
    }
    // The bytes as properties and payload of a record that names the right keys.
    let (id, key) = (signing.public().id().0, SealingKey::from_bytes(&[2; 32]).id().0);
    let (value, payload) = bytes.split_at(bytes.len().min(64));
    let mut seal = value.to_vec();
    seal.resize(34, 0);
    (seal[0], seal[1]) = (1 + seal[0] % 2, seal[1] % 2);
    seal[2..10].copy_from_slice(&key);
    let properties = encoded(&[(tag::SEAL, &seal), (tag::SIGNER, &id), (tag::SIGNATURE, value)]);
    let properties = Properties::parse(&properties).expect("well-formed");
    let channel = Channel::parse("a/b").expect("valid");
    judge(&Record { properties, ..Record::new(channel, payload) }, &public, &sealing);
});

/// Nothing that the fuzzer makes is signed or sealed with these keys.
fn judge(record: &Record<'_>, public: &PublicKeys, sealing: &SealingKeys) {
    assert!(verify(record, public).is_err(), "a forged signature passed");
    assert!(open(record, sealing, MAX).is_err(), "a forged seal opened");
}

fn encoded(properties: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(tag, value) in properties {
        let mut one = vec![0; value.len() + 10];
        let len = Properties::encode_one(tidegate::model::Property { tag, value }, &mut one).expect("fits");
        out.extend_from_slice(&one[..len]);
    }
    out
}
