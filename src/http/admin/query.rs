//! The query of a GET request, and ids in its path.

use std::convert::Infallible;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::problem::Problem;

/// The fields of a query.
pub(in crate::http) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

impl Query {
    /// A field, if it is there.
    pub fn get<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        let Some((_, text)) = self.0.iter().find(|(key, _)| key == name) else { return Ok(None) };
        let parsed = text.parse().map_err(|_| {
            Problem::unprocessable("invalid_field", format!("The parameter `{name}` cannot be read.")).about(name)
        });
        parsed.map(Some)
    }

    /// How many rows a page has.
    pub fn limit(&self) -> Result<u32, Problem> {
        page_size(self.get("limit")?)
    }
}

/// The size of a page: 1 to 200, 50 when nobody says.
pub(in crate::http) fn page_size(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(50) {
        limit @ 1..=200 => Ok(limit),
        _ => Err(Problem::unprocessable("invalid_field", "A page has 1 to 200 rows.").about("limit")),
    }
}

/// An id in the path. What is no id names nothing.
pub(in crate::http) fn id<T: FromStr>(text: Option<String>, detail: &'static str) -> Result<T, Problem> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| Problem::not_found(detail))
}
