//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use crate::Error;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What a client is told.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    message: String,
    /// The field at fault.
    param: Option<String>,
    code: Option<&'static str>,
    /// Seconds after which another try makes sense.
    retry_after: Option<u64>,
}

pub(super) type ApiResult<T> = std::result::Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400 that names a field: `param: got ..., want ...`.
    pub fn field(
        param: impl Into<String>,
        got: impl std::fmt::Display,
        want: impl std::fmt::Display,
    ) -> ApiError {
        let param = param.into();
        let message = format!("{param}: got {got}, want {want}");
        ApiError { param: Some(param), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    pub fn code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> ApiError {
        self.retry_after = Some(seconds);
        self
    }

    /// What is wrong with a request whose text the model could not take: the caller's mistake.
    pub fn input(param: &str, error: dsla_model::Error) -> ApiError {
        let message = format!("{param}: {error}");
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A refusal of the engine, or a failure while it ran.
    pub fn engine(error: Error, retry_after: u64) -> ApiError {
        let message = error.to_string();
        let with = |status| ApiError::new(status, message.clone());
        match error {
            Error::Request { field: "prompt + max_tokens", .. } => {
                let error = with(StatusCode::BAD_REQUEST).code("context_length_exceeded");
                ApiError { param: Some("max_tokens".into()), ..error }
            }
            Error::Request { field: "rate", .. } => {
                ApiError { param: Some("dsla.rate".into()), ..with(StatusCode::BAD_REQUEST) }
            }
            Error::Request { field, .. } => {
                ApiError { param: Some(field.into()), ..with(StatusCode::BAD_REQUEST) }
            }
            Error::NeverFits { .. } => with(StatusCode::BAD_REQUEST).code("memory_budget_exceeded"),
            Error::QueueFull { .. } => {
                with(StatusCode::TOO_MANY_REQUESTS).code("queue_full").retry_after(retry_after)
            }
            Error::ShuttingDown | Error::Stopped => {
                with(StatusCode::SERVICE_UNAVAILABLE).code("shutting_down")
            }
            Error::Config { .. } | Error::Thread { .. } | Error::Internal { .. } | Error::Model(_) => {
                with(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// OpenAI's names.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body());
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
