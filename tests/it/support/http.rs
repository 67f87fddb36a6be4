//! Asking a server over HTTP. Each answer is looked at for what all answers must have, so that no
//! test needs to ask for it again.

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use super::server::{Tokens, client};

/// Somebody who asks one server. Cookies are kept by nobody, and redirects followed by nobody.
#[derive(Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

/// A request that is yet to be sent.
pub struct Ask {
    path: String,
    method: Method,
    builder: reqwest::RequestBuilder,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Headers that every answer has, once.
const ALWAYS: [&str; 8] = [
    "x-request-id",
    "cache-control",
    "content-security-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "referrer-policy",
    "x-content-type-options",
    "x-frame-options",
];

impl Api {
    /// With connections of its own: those of another test's runtime would end with it.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), http: client() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn ask(&self, method: Method, path: &str) -> Ask {
        let builder = self.http.request(method.clone(), self.url(path));
        Ask { path: path.to_owned(), method, builder }
    }

    pub fn get(&self, path: &str) -> Ask {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Ask {
        self.ask(Method::POST, path)
    }

    pub fn patch(&self, path: &str) -> Ask {
        self.ask(Method::PATCH, path)
    }

    pub fn delete(&self, path: &str) -> Ask {
        self.ask(Method::DELETE, path)
    }

    /// Registers `name`, with the password that [`password_of`] tells.
    pub async fn register(&self, name: &str) -> Tokens {
        let answer = self.post("/api/v1/auth/register").json(registration(name)).send().await;
        answer.tokens(201)
    }

    pub async fn sign_in(&self, name: &str) -> Tokens {
        self.sign_in_with(name, &password_of(name)).await
    }

    pub async fn sign_in_with(&self, identifier: &str, password: &str) -> Tokens {
        self.try_sign_in(identifier, password).await.tokens(200)
    }

    pub async fn try_sign_in(&self, identifier: &str, password: &str) -> Answer {
        let body = json!({"identifier": identifier, "password": password});
        self.post("/api/v1/auth/login").json(body).send().await
    }

    pub async fn admin(&self) -> Tokens {
        self.sign_in_with("admin", super::server::ADMIN_PASSWORD).await
    }

    pub async fn refresh(&self, refresh_token: &str) -> Answer {
        self.post("/api/v1/auth/refresh").json(json!({"refresh_token": refresh_token})).send().await
    }

    /// What `/auth/me` says to this token.
    pub async fn me(&self, access_token: &str) -> Answer {
        self.get("/api/v1/auth/me").bearer(access_token).send().await
    }
}

pub fn email_of(name: &str) -> String {
    format!("{name}@example.org")
}

/// What lasts for so many seconds has that left, less what has gone by since it began.
pub fn has_left(answer: &Value, name: &str, lifetime: i64) {
    let left = answer[name].as_i64().unwrap();
    assert!((lifetime - 90..=lifetime).contains(&left), "{name}: {left} of {lifetime}");
}

pub fn password_of(name: &str) -> String {
    format!("the password of {name}")
}

/// The body that registers `name`.
pub fn registration(name: &str) -> Value {
    json!({"email": email_of(name), "username": name, "password": password_of(name)})
}

impl Ask {
    pub fn bearer(mut self, token: &str) -> Self {
        self.builder = self.builder.bearer_auth(token);
        self
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.builder = self.builder.header(name, HeaderValue::from_bytes(value.as_ref()).unwrap());
        self
    }

    pub fn json(mut self, body: Value) -> Self {
        self.builder = self.builder.json(&body);
        self
    }

    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        self.builder = self.builder.form(fields);
        self
    }

    /// Any bytes, said to be of a type.
    pub fn body(mut self, content_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.builder = self.builder.header("content-type", content_type).body(bytes.into());
        self
    }

    pub async fn send(self) -> Answer {
        let asked = format!("{} {}", self.method, self.path);
        let answer = self.builder.send().await.unwrap_or_else(|error| panic!("{asked}: {error:?}"));
        let answer = Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await.unwrap_or_else(|error| panic!("{asked}: {error:?}")).into(),
        };
        answer.check(&asked, &self.method, &self.path);
        answer
    }
}

impl Answer {
    fn check(&self, asked: &str, method: &Method, path: &str) {
        let shown = format!("{asked}: {}", self.shown());
        assert!(self.status < 500 || path == "/readyz", "{shown}");
        for name in ALWAYS {
            assert_eq!(self.headers.get_all(name).iter().count(), 1, "{name} of {shown}");
        }
        assert!(!self.header("content-security-policy").contains("unsafe"), "{shown}");
        match self.status {
            401 => assert!(self.header("www-authenticate").starts_with("Bearer"), "{shown}"),
            405 => assert!(!self.header("allow").is_empty(), "{shown}"),
            429 | 503 => assert!(self.header("retry-after").parse::<u32>().unwrap() > 0, "{shown}"),
            _ => {}
        }
        let for_programs = path.starts_with("/api/") || path.starts_with("/.well-known/");
        if self.status >= 400 && for_programs && *method != Method::HEAD {
            assert_eq!(self.header("content-type"), "application/problem+json", "{shown}");
            let problem = self.json();
            assert_eq!(problem["status"], self.status, "{shown}");
            assert!(problem["type"].as_str().unwrap().starts_with("/problems/"), "{shown}");
            assert!(!problem["title"].as_str().unwrap().is_empty(), "{shown}");
            assert!(!problem["detail"].as_str().unwrap().is_empty(), "{shown}");
            assert_eq!(problem["request_id"], self.header("x-request-id"), "{shown}");
        }
    }

    /// The one value of a header; an empty text where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.shown()))
    }

    fn shown(&self) -> String {
        let body: String = self.text().chars().take(600).collect();
        format!("{} {:?}\n{body}", self.status, self.headers)
    }

    /// Asserts the status, and gives itself back.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.shown());
        self
    }

    /// Asserts the status and the kind of problem, and gives its body.
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        let body = self.clone().is(status).json();
        assert_eq!(body["type"], format!("/problems/{kind}"), "{body}");
        body
    }

    /// Asserts that the values of these fields can't be taken, and no others.
    pub fn refuses(&self, fields: &[&str]) {
        let body = self.problem(422, "invalid-input");
        let named: Vec<_> = body["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["field"].as_str().unwrap())
            .collect();
        assert_eq!(named, fields, "{body}");
    }

    pub fn tokens(&self, status: u16) -> Tokens {
        let body = self.clone().is(status).json();
        Tokens::read(body).unwrap_or_else(|| panic!("no tokens: {}", self.shown()))
    }

    /// The cookies that it sets: name, value, and the attributes in lower case.
    pub fn cookies(&self) -> Vec<(String, String, Vec<String>)> {
        let lines = self.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        lines
            .map(|line| {
                let mut parts = line.split(';').map(str::trim);
                let (name, value) = parts.next().unwrap().split_once('=').unwrap();
                (name.to_owned(), value.to_owned(), parts.map(str::to_lowercase).collect())
            })
            .collect()
    }
}
