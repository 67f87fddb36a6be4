//! The description of the API (OpenAPI 3.1), generated from the routes.
//!
//! The routes name their answers; what all of them share is added here: the problem body of every
//! refusal, the headers that come with one, and the answers that any route can give.

use utoipa::{
    OpenApi as _, PartialSchema, ToSchema,
    openapi::{
        ComponentsBuilder, Content, Header, InfoBuilder, License, ObjectBuilder, OpenApi,
        OpenApiBuilder, Ref, RefOr, ResponseBuilder, Type,
        path::{Operation, PathItem},
        response::Response,
        schema::Schema,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    problem::{FieldError, ProblemBody},
    routes,
};

const DESCRIPTION: &str = "A login service whose whole history can be replayed and proved.\n\n\
    Sign in with `POST /api/v1/auth/login`, send the access token as `Authorization: Bearer …`, and refresh it with \
    `POST /api/v1/auth/refresh` before it expires. Every refusal is `application/problem+json` (RFC 9457): decide by \
    its `type`, show its `detail`, and name its `request_id` when you ask for help.";

/// The description of every route of the API.
#[must_use]
pub fn openapi() -> OpenApi {
    let base = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Entrybook")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(License::new("Apache-2.0")))
                .build(),
        )
        .components(Some(
            ComponentsBuilder::new()
                .schema(ProblemBody::name(), ProblemBody::schema())
                .schema(FieldError::name(), FieldError::schema())
                .security_scheme("bearer", bearer())
                .security_scheme("cookie", cookie())
                .build(),
        ))
        .build();
    let (_, mut description) = routes::described(base);
    description.merge(routes::log::TilesDescription::openapi());
    for item in description.paths.paths.values_mut() {
        operations(item).for_each(complete);
    }
    for (older, newer) in routes::OLDER {
        if let Some(mut item) = description.paths.paths.get(newer).cloned() {
            // The older paths were never more than this.
            item.patch = None;
            operations(&mut item).for_each(|operation| {
                operation.deprecated = Some(utoipa::openapi::Deprecated::True);
                operation.operation_id =
                    operation.operation_id.take().map(|id| format!("older_{id}"));
                operation.summary = Some(format!("The same as {newer}, for older clients."));
            });
            description.paths.paths.insert(older.to_owned(), item);
        }
    }
    description
}

fn bearer() -> SecurityScheme {
    let description = "The access token of a sign-in, for 15 minutes unless configured otherwise.";
    SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(description))
            .build(),
    )
}

fn cookie() -> SecurityScheme {
    let description = "Set by the sign-in page. Under a public address of http it is called entrybook_access. What \
                       changes something must then come from this origin.";
    SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
        "__Host-entrybook_access",
        description,
    )))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete, &mut item.put]
        .into_iter()
        .flatten()
}

/// Adds what all operations share.
fn complete(operation: &mut Operation) {
    let mut shared =
        vec![("500", "Something went wrong on our side"), ("503", "Not available just now")];
    if operation.request_body.is_some() {
        shared.push(("408", "The body took too long"));
    }
    let responses = &mut operation.responses.responses;
    for (status, description) in shared {
        let response = || RefOr::T(ResponseBuilder::new().description(description).build());
        responses.entry(status.to_owned()).or_insert_with(response);
    }
    for (status, response) in responses.iter_mut() {
        if let (RefOr::T(response), true) = (response, status.as_str() >= "400") {
            refusal(status, response);
        }
    }
}

/// Gives a refusal its body and headers, where it has no other body.
fn refusal(status: &str, response: &mut Response) {
    if response.content.is_empty() {
        let schema = RefOr::<Schema>::Ref(Ref::from_schema_name(ProblemBody::name()));
        response
            .content
            .insert("application/problem+json".to_owned(), RefOr::T(Content::new(Some(schema))));
        match status {
            "401" => {
                header(
                    response,
                    "WWW-Authenticate",
                    Type::String,
                    "How to authenticate (RFC 6750, section 3)",
                );
            }
            "429" | "503" => {
                header(
                    response,
                    "Retry-After",
                    Type::Integer,
                    "After how many seconds to try again",
                );
            }
            _ => {}
        }
    }
}

fn header(response: &mut Response, name: &str, kind: Type, description: &str) {
    let mut header = Header::new(ObjectBuilder::new().schema_type(kind).build());
    header.description = Some(description.to_owned());
    response.headers.insert(name.to_owned(), RefOr::T(header));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_openapi_3_1_and_names_each_operation_once() {
        let mut description = openapi();
        let json = serde_json::to_value(&description).unwrap();
        assert!(json["openapi"].as_str().unwrap().starts_with("3.1"), "{}", json["openapi"]);
        let mut ids = BTreeSet::new();
        for item in description.paths.paths.values_mut() {
            for operation in operations(item) {
                let id = operation.operation_id.clone().unwrap();
                assert!(ids.insert(id.clone()), "{id} is there twice");
            }
        }
    }

    #[test]
    fn every_route_is_described() {
        let description = openapi();
        let mut lines = Vec::new();
        for (path, mut item) in description.paths.paths {
            for (method, operation) in [
                ("GET", item.get.take()),
                ("POST", item.post.take()),
                ("PATCH", item.patch.take()),
                ("DELETE", item.delete.take()),
            ] {
                if let Some(operation) = operation {
                    let statuses: Vec<_> = operation.responses.responses.keys().cloned().collect();
                    lines.push(format!("{method} {path}: {}", statuses.join(" ")));
                }
            }
        }
        insta::assert_snapshot!(lines.join("\n"), @r"
        GET /.well-known/jwks.json: 200 500 503
        POST /api/auth/login: 200 400 401 408 413 415 422 429 500 503
        GET /api/auth/me: 200 401 500 503
        GET /api/health: 200 500 503
        GET /api/v1/admin/projections: 200 401 403 500 503
        GET /api/v1/admin/projections/progress: 200 401 403 500 503
        POST /api/v1/admin/projections/rebuild: 202 400 401 403 408 409 413 415 422 500 503
        GET /api/v1/admin/projections/{name}: 200 401 403 404 500 503
        POST /api/v1/admin/projections/{name}/rebuild: 202 400 401 403 404 408 409 413 415 422 500 503
        DELETE /api/v1/admin/projections/{name}/rebuild: 202 401 403 404 409 500 503
        POST /api/v1/admin/projections/{name}/verify: 202 401 403 404 409 500 503
        GET /api/v1/admin/users: 200 400 401 403 422 500 503
        GET /api/v1/admin/users/{id}: 200 401 403 404 500 503
        POST /api/v1/admin/users/{id}/disable: 200 401 403 404 409 429 500 503
        POST /api/v1/admin/users/{id}/enable: 200 401 403 404 429 500 503
        POST /api/v1/admin/users/{id}/erase: 200 400 401 403 404 408 409 413 415 422 500 503
        GET /api/v1/admin/users/{id}/erasure: 200 401 403 404 500 503
        POST /api/v1/admin/users/{id}/roles: 200 400 401 403 404 408 409 413 415 422 429 500 503
        GET /api/v1/audit: 200 400 401 403 422 429 500 503
        GET /api/v1/audit/export: 200 400 401 403 422 429 500 503
        POST /api/v1/audit/export: 200 400 401 403 408 413 415 422 429 500 503
        POST /api/v1/audit/holders: 200 400 401 403 408 413 415 422 429 500 503
        POST /api/v1/audit/search: 200 400 401 403 408 413 415 422 429 500 503
        GET /api/v1/audit/signed-in: 200 400 401 403 422 429 500 503
        GET /api/v1/audit/state: 200 400 401 403 404 422 429 500 503
        GET /api/v1/audit/stream: 200 400 401 403 422 429 500 503
        GET /api/v1/audit/{position}: 200 401 403 404 429 500 503
        POST /api/v1/auth/login: 200 400 401 408 413 415 422 429 500 503
        POST /api/v1/auth/logout: 204 400 401 403 408 413 415 422 500 503
        GET /api/v1/auth/me: 200 401 500 503
        PATCH /api/v1/auth/me: 200 400 401 403 408 409 413 415 422 429 500 503
        POST /api/v1/auth/password: 204 400 401 403 408 409 413 415 422 429 500 503
        POST /api/v1/auth/refresh: 200 400 401 403 408 413 415 422 429 500 503
        POST /api/v1/auth/register: 201 400 403 408 409 413 415 422 429 500 503
        GET /api/v1/auth/verify: 204 401 403 500 503
        GET /api/v1/health: 200 500 503
        GET /api/v1/sessions: 200 401 500 503
        DELETE /api/v1/sessions: 200 401 403 429 500 503
        DELETE /api/v1/sessions/{id}: 204 401 403 404 500 503
        GET /healthz: 200 500 503
        GET /log/checkpoint: 200 404 500 503
        GET /log/key: 200 500 503
        GET /log/proof/{position}: 200 404 500 503
        GET /log/tile/entries/{index}: 200 401 403 404 500 503
        GET /log/tile/{level}/{index}: 200 404 500 503
        GET /metrics: 200 500 503
        GET /readyz: 200 500 503
        ");
    }

    #[test]
    fn every_refusal_has_a_problem_body() {
        let json = serde_json::to_value(openapi()).unwrap();
        for (path, item) in json["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.as_str() >= "400" && path != "/readyz" {
                        let schema =
                            &response["content"]["application/problem+json"]["schema"]["$ref"];
                        assert_eq!(schema, "#/components/schemas/Problem", "{path} {status}");
                    }
                }
            }
        }
    }

    #[test]
    fn bodies_refuse_what_nobody_knows() {
        let json = serde_json::to_value(openapi()).unwrap();
        for name in [
            "Registration",
            "Login",
            "LoginForm",
            "RefreshBody",
            "ProfileChange",
            "PasswordChange",
            "RoleChange",
            "ErasureOrder",
            "HistoryQuery",
            "Holding",
            "RebuildOptions",
            "RebuildOfSeveral",
        ] {
            let schema = &json["components"]["schemas"][name];
            assert_eq!(schema["additionalProperties"], false, "{name}: {schema}");
        }
    }
}
