//! The fields of a JSON object by name and type. A wrong type is an error that names the field; null counts as absent;
//! what nobody asks for is ignored, as clients send more than any server knows.

use super::error::{ApiError, ApiResult};
use axum::http::StatusCode;
use serde_json::{Map, Value};

/// An object, and where it lies in the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The object's own field, empty at the top.
    at: &'a str,
}

impl<'a> Fields<'a> {
    pub fn new(body: &'a Value) -> ApiResult<Fields<'a>> {
        match body {
            Value::Object(map) => Ok(Fields { map, at: "" }),
            other => {
                let message = format!("body: got {}, want a JSON object", show(other));
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
        }
    }

    /// The field, unless it is missing or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.into() } else { format!("{}.{name}", self.at) }
    }

    /// A refusal of the field as it is.
    pub fn refuse(&self, name: &str, want: &str) -> ApiError {
        let got = self.map.get(name).map_or("nothing".into(), show);
        ApiError::field(self.path(name), got, want)
    }

    fn typed<T>(
        &self,
        name: &str,
        want: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> ApiResult<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.refuse(name, want))
    }

    pub fn bool(&self, name: &str) -> ApiResult<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub fn text(&self, name: &str) -> ApiResult<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    pub fn number(&self, name: &str) -> ApiResult<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub fn float(&self, name: &str) -> ApiResult<Option<f32>> {
        Ok(self.number(name)?.map(|x| x as f32))
    }

    /// 0 or more.
    pub fn count(&self, name: &str) -> ApiResult<Option<usize>> {
        self.typed(name, "an integer, 0 or more", |v| usize::try_from(v.as_u64()?).ok())
    }

    /// Any 64-bit integer, as its bits.
    pub fn integer(&self, name: &str) -> ApiResult<Option<u64>> {
        self.typed(name, "a 64-bit integer", |v| v.as_u64().or_else(|| v.as_i64().map(|i| i as u64)))
    }

    pub fn array(&self, name: &str) -> ApiResult<Option<&'a Vec<Value>>> {
        self.typed(name, "an array", Value::as_array)
    }

    pub fn ids(&self, name: &str) -> ApiResult<Option<Vec<u32>>> {
        self.typed(name, "an array of token ids", |v| ids(v.as_array()?))
    }

    /// A string, or an array of them.
    pub fn texts(&self, name: &str) -> ApiResult<Option<Vec<String>>> {
        self.typed(name, "a string or an array of strings", |v| match v {
            Value::String(s) => Some(vec![s.clone()]),
            Value::Array(list) => list.iter().map(|v| v.as_str().map(String::from)).collect(),
            _ => None,
        })
    }

    pub fn object(&self, name: &'a str) -> ApiResult<Option<Fields<'a>>> {
        self.typed(name, "an object", |v| Some(Fields { map: v.as_object()?, at: name }))
    }

    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }
}

/// Token ids, if that is what the values are.
pub(super) fn ids(values: &[Value]) -> Option<Vec<u32>> {
    values.iter().map(|v| u32::try_from(v.as_u64()?).ok()).collect()
}

/// A value in an error message: short, and one line.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".into(),
        Value::Array(list) => format!("an array of {}", list.len()),
        Value::String(s) if s.chars().count() > 40 => {
            let start: String = s.chars().take(40).collect();
            format!("a string that starts with {}", Value::from(start))
        }
        other => other.to_string(),
    }
}
