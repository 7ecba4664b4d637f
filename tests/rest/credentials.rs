//! What takes the current password, what makes a good one, and hashes that came along from elsewhere.

use serde_json::{Value, json};

use crate::common::people::{new_email, new_password};
use crate::common::{Event, Mode, eventually, stages};

stages! {
    both: [
        common_passwords_are_refused_and_long_ones_kept_whole,
        an_address_is_changed_with_the_password,
        an_address_is_not_changed_without_it,
        a_changed_address_is_seen_everywhere,
        an_account_is_removed_with_everything_in_it,
        an_account_is_not_removed_without_its_password,
        imported_hashes_let_in_and_are_replaced,
        a_hash_is_replaced_without_ending_a_session,
        bcrypt_cuts_no_password_short,
    ],
}

async fn common_passwords_are_refused_and_long_ones_kept_whole(mode: Mode) {
    let stage = mode.stage().await;
    let email = new_email();
    let signup = async |password: &str| {
        let body = json!({"email": email, "password": password});
        stage.a().post("/api/v1/auth/signup").json(&body).send().await
    };
    // The last two: number 3,000 of those that are long enough, and the address itself.
    for common in ["Password123", "iloveyou", "qwertyuiop", "trustno1", "bangbang", &email] {
        let answer = signup(common).await;
        answer.is_problem(422, "password_too_common");
        assert!(!answer.text.contains(common), "the answer repeats the password");
    }
    signup("seven77").await.is_problem(422, "password_too_short");
    signup(&"x".repeat(129)).await.is_problem(422, "password_too_long");
    // No rules of composition, and nothing is cut off: not at 72 bytes, and not at 127 characters.
    let long = format!("{}ü", "all lower case letters ".repeat(6))[..129].to_owned();
    let long: String = long.chars().take(128).collect();
    signup(&long).await.expect(201);
    stage.a().try_login(&email, &long[..long.len() - 1]).await.is_problem(401, "invalid_credentials");
    stage.a().try_login(&email, &long).await.expect(200);
}

async fn an_address_is_changed_with_the_password(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let next = format!("Zoë+{}", new_email());
    let answer = stage.a().change_email(&alice.token, &next, &alice.password).await.expect(200);
    assert_eq!((&answer["email"], &answer["id"]), (&json!(next), &json!(alice.user_id)));
    assert_eq!(answer.header("cache-control"), "no-store");
    stage.b().try_login(&next.to_uppercase(), &alice.password).await.expect(200);
    stage.b().try_login(&alice.email, &alice.password).await.is_problem(401, "invalid_credentials");
    // The old one is free, and the session is the same.
    let body = json!({"email": alice.email, "password": new_password()});
    stage.b().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
    stage.a().validate(&alice.session_id).await.expect(200);
    // One's own address in another spelling is nobody else's.
    stage.a().change_email(&alice.token, &next.to_lowercase(), &alice.password).await.expect(200);
}

async fn an_address_is_not_changed_without_it(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let next = new_email();
    stage.a().change_email(&alice.token, &next, "a wrong password").await.is_problem(403, "invalid_current_password");
    stage.a().change_email(&alice.token, &next, &bob.password).await.is_problem(403, "invalid_current_password");
    stage.a().change_email(&alice.token, "no address", &alice.password).await.is_problem(422, "invalid_email");
    for taken in [bob.email.clone(), bob.email.to_uppercase()] {
        stage.b().change_email(&alice.token, &taken, &alice.password).await.is_problem(409, "email_taken");
    }
    stage.a().change_email("x.y.z", &next, &alice.password).await.is_bad_token();
    let path = "/api/v1/auth/change-email";
    stage.a().post(path).json(&json!({"email": next, "current_password": "x"})).send().await.is_unauthenticated();
    let missing = stage.a().post(path).bearer(&alice.token).json(&json!({"email": next})).send().await;
    assert_eq!(missing["field"], "current_password", "{missing:#?}");
    missing.problem(&[422]);
    assert_eq!(stage.a().me(&alice.token).await.expect(200)["email"], alice.email);
}

async fn a_changed_address_is_seen_everywhere(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for node in stage.nodes() {
        node.me(&alice.token).await.expect(200);
    }
    let mut socket = stage.b().connect(&alice.token).await;
    let next = new_email();
    stage.a().change_email(&alice.token, &next, &alice.password).await.expect(200);
    let told = loop {
        if let Event::Push(push) = socket.next().await {
            break push;
        }
    };
    assert_eq!(told["message"]["data"]["user"]["email"], next, "{told}");
    for node in stage.nodes() {
        eventually("the node knows the address", async || {
            (node.me(&alice.token).await.expect(200)["email"] == next).then_some(())
        })
        .await;
    }
    socket.expect_open().await;
}

async fn an_account_is_removed_with_everything_in_it(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let mut sockets = [stage.a().connect(&phone.token).await, stage.b().connect(&laptop.token).await];
    let answer = stage.a().delete_account(&phone.token, &phone.password).await.expect(200);
    assert_eq!(answer.json, json!({"sessions_revoked": 2}));
    for socket in &mut sockets {
        socket.expect_forced(4503, "account disabled").await;
    }
    for node in stage.nodes() {
        for ended in [&phone, &laptop] {
            eventually("the token is refused", async || (node.me(&ended.token).await.status == 401).then_some(()))
                .await;
            node.me(&ended.token).await.is_bad_token();
            node.verify(&ended.token).await.is_bad_token();
            node.validate(&ended.session_id).await.is_unauthenticated();
        }
        node.try_login(&phone.email, &phone.password).await.is_problem(401, "invalid_credentials");
    }
    for table in [
        "SELECT count(*) FROM users WHERE email = $1",
        "SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.email = $1",
    ] {
        assert_eq!(stage.database.count(table, &phone.email).await, 0, "{table}");
    }
    assert_eq!(orphans(&stage, &phone.sid).await, 0);
    // The address is free; whoever takes it is somebody else.
    let body = json!({"email": phone.email, "password": phone.password});
    let again = stage.b().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
    assert_ne!(again["user"]["id"], phone.user_id);
}

async fn orphans(stage: &crate::common::Stage, sid: &str) -> i64 {
    stage.database.count("SELECT count(*) FROM sessions WHERE CAST(sid AS TEXT) = $1", sid).await
}

async fn an_account_is_not_removed_without_its_password(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().delete_account(&alice.token, "a wrong password").await.is_problem(403, "invalid_current_password");
    stage.a().delete_account("x.y.z", &alice.password).await.is_bad_token();
    let path = "/api/v1/auth/delete-account";
    stage.a().post(path).json(&json!({"current_password": alice.password})).send().await.is_unauthenticated();
    stage.a().post(path).bearer(&alice.token).send().await.problem(&[400]);
    stage.a().post(path).bearer(&alice.token).json(&json!({})).send().await.problem(&[422]);
    stage.a().post(path).bearer(&alice.token).json(&json!({"current_password": 5})).send().await.problem(&[422]);
    stage.b().me(&alice.token).await.expect(200);
    stage.b().login(&alice).await;
}

/// Of the password "correct horse", by argon2-cffi and bcrypt for Python.
const IMPORTED: [&str; 5] = [
    "$argon2id$v=19$m=8192,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$7Z7g7UrcFKxmTSHYfYx8lpsKhhb39w1bQqYoB+CM7W4",
    "$argon2i$v=16$m=1024,t=1,p=1$c29tZXNhbHQ$XNS64UZ7gune9pDUubZyiKmL7aUm8Ml3cu+2yhDRvao",
    "$argon2d$v=19$m=256,t=4,p=2$c29tZXNhbHRzb21lc2FsdA$mkzFivdUHh6zjA5YMYOx6g",
    "$2a$05$WoiTmM5HRoA/ULo8fZX86eY5rwGA12Sqs/G7cL7yaSmPMfuKYNwZm",
    "$2y$05$p6BsIE/lUZsPybANQxr9MevJSCcZ.Qn/7FAlEY81hVr2iJK7tiPyG",
];

async fn imported_hashes_let_in_and_are_replaced(mode: Mode) {
    let stage = mode.stage().await;
    for imported in IMPORTED {
        let alice = stage.a().signup().await;
        stage.database.set_password_hash(&alice.email, imported).await;
        stage.b().try_login(&alice.email, "correct horsf").await.is_problem(401, "invalid_credentials");
        assert_eq!(stage.database.password_hash(&alice.email).await, imported, "a wrong password changes nothing");
        stage.b().try_login(&alice.email, "correct horse").await.expect(200);
        let kept = stage.database.password_hash(&alice.email).await;
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{imported} became {kept}");
        stage.a().try_login(&alice.email, "correct horse").await.expect(200);
        assert_eq!(stage.database.password_hash(&alice.email).await, kept, "as good as it can be");
    }
}

async fn a_hash_is_replaced_without_ending_a_session(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    // By hand: that is another password, and ends what was begun with the old one.
    stage.database.set_password_hash(&alice.email, IMPORTED[3]).await;
    eventually("the session has ended", async || (stage.a().me(&alice.token).await.status == 401).then_some(())).await;
    let (email, password) = (alice.email, "correct horse".to_owned());
    // Both begin with the old hash, and one of them replaces it.
    let (phone, laptop) = tokio::join!(stage.a().try_login(&email, &password), stage.b().try_login(&email, &password));
    let mut sockets = Vec::new();
    for (node, login) in [(stage.b(), phone.expect(200)), (stage.a(), laptop.expect(200))] {
        let token = login.str("access_token").to_owned();
        node.me(&token).await.expect(200);
        sockets.push(node.connect(&token).await);
    }
    stage.a().try_login(&email, &password).await.expect(200);
    for socket in &mut sockets {
        socket.expect_open().await;
    }
    // A change of password right away knows the new hash.
    let token: Value = stage.a().try_login(&email, &password).await.expect(200)["access_token"].clone();
    let token = token.as_str().expect("a token");
    stage.b().change_password(token, &password, &new_password()).await.expect(200);
}

async fn bcrypt_cuts_no_password_short(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let (fits, too_long) = ("y".repeat(71), "y".repeat(72));
    // What other systems do: the hash of the first 72 bytes.
    let cut = bcrypt::hash(&too_long, 4).expect("a hash");
    stage.database.set_password_hash(&alice.email, &cut).await;
    for beyond in [&too_long, &format!("{too_long}z"), &"y".repeat(128)] {
        stage.a().try_login(&alice.email, beyond).await.is_problem(401, "invalid_credentials");
    }
    assert_eq!(stage.database.password_hash(&alice.email).await, cut);
    stage.database.set_password_hash(&alice.email, &bcrypt::hash(&fits, 4).expect("a hash")).await;
    stage.a().try_login(&alice.email, &fits).await.expect(200);
    stage.a().try_login(&alice.email, &too_long).await.is_problem(401, "invalid_credentials");
}
