//! Tokens and keys of the RFCs: what others signed is verified, and what we sign is theirs.

use crate::auth::secret::Secret;
use crate::auth::token::{Algorithm, SigningKey, Unverified, VerifyingKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use serde_json::json;

/// RFC 7515 §A.1.1: the claims of its examples.
const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

/// RFC 7515 §A.2.1.
pub(super) const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RSA_D: &str = "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ";
const RSA_P: &str = "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc";
const RSA_Q: &str = "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc";
const RSA_DP: &str = "BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0";
const RSA_DQ: &str = "h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU";
const RSA_QI: &str = "IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U";

fn bytes(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// A DER value with its length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..128 => out.push(len as u8),
        128..256 => out.extend_from_slice(&[0x81, len as u8]),
        _ => out.extend_from_slice(&[0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(&content);
    out
}

fn integer(number: &str) -> Vec<u8> {
    let number = bytes(number);
    der(2, &[if number[0] >= 0x80 { &[0] } else { &[] }, &number])
}

/// rsaEncryption (RFC 8017 §A.1).
const RSA_OID: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

/// The private key of the RFC as PKCS#8.
pub(super) fn rsa_private_pem() -> String {
    let numbers = [RSA_N, "AQAB", RSA_D, RSA_P, RSA_Q, RSA_DP, RSA_DQ, RSA_QI].map(integer).concat();
    let key = der(0x30, &[&[2, 1, 0], &numbers]);
    pem("PRIVATE KEY", &der(0x30, &[&[2, 1, 0], RSA_OID, &der(4, &[&key])]))
}

/// Its public half as SubjectPublicKeyInfo; of another modulus when given.
pub(super) fn rsa_public_pem(modulus: &str) -> String {
    let key = der(0x30, &[&integer(modulus), &integer("AQAB")]);
    pem("PUBLIC KEY", &der(0x30, &[RSA_OID, &der(3, &[&[0], &key])]))
}

/// A token whose signature these keys must verify, and no change of which.
#[track_caller]
fn verified(header: &str, payload: &str, signature: &str, key: &VerifyingKey, algorithm: Algorithm) {
    let token = format!("{header}.{payload}.{signature}");
    let parsed = Unverified::parse(token.as_bytes()).expect("three parts");
    assert_eq!(parsed.algorithm(), Ok(algorithm));
    assert_eq!(key.algorithm(), algorithm);
    assert!(key.verifies(parsed.signed, &parsed.signature), "the RFC's own");
    for at in [0, parsed.signature.len() / 2, parsed.signature.len() - 1] {
        let mut forged = parsed.signature.clone();
        forged[at] ^= 1;
        assert!(!key.verifies(parsed.signed, &forged), "byte {at}");
        assert!(!key.verifies(parsed.signed, &parsed.signature[..at]), "{at} bytes");
    }
    let mut other = parsed.signed.to_vec();
    other[10] ^= 1;
    assert!(!key.verifies(&other, &parsed.signature));
    assert!(!key.verifies(parsed.signed, &[]));
}

#[test]
fn hs256_of_rfc_7515_a_1() {
    let secret = bytes("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow");
    let key = VerifyingKey::secret(&secret).expect("64 bytes");
    let header = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    verified(header, PAYLOAD, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", &key, Algorithm::Hs256);
}

#[test]
fn rs256_of_rfc_7515_a_2() {
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let keys = VerifyingKey::public(rsa_public_pem(RSA_N).as_bytes()).expect("a public key");
    verified("eyJhbGciOiJSUzI1NiJ9", PAYLOAD, signature, &keys[0], Algorithm::Rs256);
    // PKCS#1 v1.5 says the same each time: ours is the RFC's, but for the order of the header's words.
    let random = SystemRandom::new();
    let ours =
        SigningKey::parse(Algorithm::Rs256, &Secret::new(rsa_private_pem().into_bytes()), &random).expect("a key");
    let token = ours.sign(&json!({"alg": "RS256"}), &json!({"a": 1}), &random).expect("signed");
    let parsed = Unverified::parse(token.as_bytes()).expect("three parts");
    assert!(keys[0].verifies(parsed.signed, &parsed.signature));
}

#[test]
fn es256_of_rfc_7515_a_3() {
    let (x, y) = ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    // id-ecPublicKey and prime256v1 (RFC 5480 §2.1.1).
    let oids: &[u8] =
        &[0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let spki = der(0x30, &[oids, &der(3, &[&[0, 4], &bytes(x), &bytes(y)])]);
    let keys = VerifyingKey::public(pem("PUBLIC KEY", &spki).as_bytes()).expect("a public key");
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    verified("eyJhbGciOiJFUzI1NiJ9", PAYLOAD, signature, &keys[0], Algorithm::Es256);
}

#[test]
fn eddsa_of_rfc_8037_a_4() {
    let public = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let keys = VerifyingKey::public(public.as_bytes()).expect("a public key");
    let payload = URL_SAFE_NO_PAD.encode("Example of Ed25519 signing");
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    verified("eyJhbGciOiJFZERTQSJ9", &payload, signature, &keys[0], Algorithm::EdDsa);
}
