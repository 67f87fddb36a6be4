//! What the application's role may do: exactly this, and each line has its reason in `docs/rights.md`.
//!
//! `database` grants it, `entrybook doctor` compares it with the catalogue, and a test holds both against the document.

use sqlx::PgPool;

use crate::StorageError;

/// Each right, as [`granted`] writes it.
pub const NEEDED: &[&str] = &[
    "_sqlx_migrations: SELECT",
    "builds: DELETE",
    "builds: INSERT",
    "builds: SELECT",
    "builds: UPDATE",
    "checkpoints: INSERT",
    "checkpoints: SELECT",
    "cosignatures: INSERT",
    "cosignatures: SELECT",
    "database: CONNECT",
    "database: TEMPORARY",
    "event_authentication(mac): UPDATE",
    "event_authentication: SELECT",
    "events(aggregate_id): INSERT",
    "events(aggregate_type): INSERT",
    "events(event_type): INSERT",
    "events(event_version): INSERT",
    "events(metadata): INSERT",
    "events(payload): INSERT",
    "events(sequence): INSERT",
    "events: SELECT",
    "function admit_write_permit(bytea): EXECUTE",
    "function destroy_key(text, bytea): EXECUTE",
    "function end_stalled(uuid): EXECUTE",
    "function give_back_lease(uuid): EXECUTE",
    "function permit_holds(bytea): EXECUTE",
    "function release_identifiers(bytea, uuid, text[], text[]): EXECUTE",
    "function renew_lease(uuid, text, text, integer): EXECUTE",
    "function sequencer_state(): EXECUTE",
    "function sessions_of_lease(uuid): EXECUTE",
    "function settle_events(bigint): EXECUTE",
    "hand_overs(application): INSERT",
    "hand_overs(browser): INSERT",
    "hand_overs(hash): INSERT",
    "hand_overs(session_id): INSERT",
    "hand_overs(user_id): INSERT",
    "hand_overs: DELETE",
    "hand_overs: SELECT",
    "identifiers: INSERT",
    "identifiers: SELECT",
    "journal: SELECT",
    "leases: SELECT",
    "log_keys(id): INSERT",
    "log_keys(master_key): INSERT",
    "log_keys(origin): INSERT",
    "log_keys(permit): INSERT",
    "log_keys(signs_from): INSERT",
    "log_keys(wrapped): INSERT",
    "log_keys: SELECT",
    "member of pg_read_all_stats",
    "projections: DELETE",
    "projections: INSERT",
    "projections: SELECT",
    "projections: UPDATE",
    "replicas: DELETE",
    "replicas: INSERT",
    "replicas: SELECT",
    "replicas: UPDATE",
    "schema ledger: CREATE",
    "schema ledger: USAGE",
    "schema public: USAGE",
    "sealing_keys: INSERT",
    "sealing_keys: SELECT",
    "sequencer: SELECT",
    "signing_keys: INSERT",
    "signing_keys: SELECT",
    "snapshots: DELETE",
    "snapshots: INSERT",
    "snapshots: SELECT",
    "snapshots: UPDATE",
    "username_lookalikes: DELETE",
    "username_lookalikes: INSERT",
    "username_lookalikes: SELECT",
];

/// Of these, what a managed server may refuse to grant, or grant to the login itself. What depends on it says so where
/// it fails.
const OPTIONAL: &[&str] =
    &["database: CONNECT", "database: TEMPORARY", "member of pg_read_all_stats"];

/// What the catalogue says, of the role itself and of everybody. Functions of extensions are left out: they are
/// everybody's, and know nothing of our tables.
const GRANTED: &str = r#"
WITH role AS (SELECT * FROM pg_roles WHERE rolname = 'entrybook_app'),
grantees AS (SELECT oid FROM role UNION ALL SELECT 0::oid)
SELECT described COLLATE "C" AS described FROM (
    SELECT c.relname || ': ' || a.privilege_type AS described
      FROM pg_class c, aclexplode(c.relacl) a
     WHERE c.relnamespace = 'public'::regnamespace AND a.grantee IN (SELECT oid FROM grantees)
    UNION
    SELECT c.relname || '(' || t.attname || '): ' || a.privilege_type
      FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
     WHERE c.relnamespace = 'public'::regnamespace AND a.grantee IN (SELECT oid FROM grantees)
    UNION
    SELECT 'function ' || p.proname || '(' || oidvectortypes(p.proargtypes) || '): ' || a.privilege_type
      FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
     WHERE p.pronamespace = 'public'::regnamespace AND a.grantee IN (SELECT oid FROM grantees)
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    UNION
    SELECT 'schema ' || n.nspname || ': ' || a.privilege_type
      FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
     WHERE n.nspname IN ('public', 'ledger') AND a.grantee IN (SELECT oid FROM grantees)
    UNION
    SELECT 'database: ' || a.privilege_type
      FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
     WHERE d.datname = current_database() AND a.grantee IN (SELECT oid FROM grantees)
    UNION
    SELECT 'member of ' || granted.rolname
      FROM pg_auth_members m JOIN role ON m.member = role.oid JOIN pg_roles granted ON granted.oid = m.roleid
    UNION
    SELECT 'owner of ' || c.relname FROM pg_class c JOIN role ON c.relowner = role.oid
     WHERE c.relnamespace = 'public'::regnamespace
    UNION
    SELECT 'owner of ' || n.nspname FROM pg_namespace n JOIN role ON n.nspowner = role.oid
     WHERE n.nspname IN ('public', 'ledger')
    UNION
    SELECT 'attribute ' || held.name
      FROM role, LATERAL (VALUES ('SUPERUSER', rolsuper), ('CREATEROLE', rolcreaterole), ('CREATEDB', rolcreatedb),
                                 ('REPLICATION', rolreplication), ('BYPASSRLS', rolbypassrls), ('LOGIN', rolcanlogin))
                  AS held (name, is_held)
     WHERE held.is_held
) AS granted ORDER BY described"#;

/// How the role's rights differ from those that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Granted, and not needed.
    pub surplus: Vec<String>,
    /// Needed, and not granted.
    pub missing: Vec<String>,
}

impl Difference {
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.surplus.is_empty() && self.missing.is_empty()
    }
}

/// What the role may do in this database.
pub async fn granted(pool: &PgPool) -> Result<Vec<String>, StorageError> {
    Ok(sqlx::query_scalar(GRANTED).fetch_all(pool).await?)
}

/// Holds the role's rights against [`NEEDED`].
pub async fn compare(pool: &PgPool) -> Result<Difference, StorageError> {
    let granted = granted(pool).await?;
    let needs = |right: &&String| NEEDED.contains(&right.as_str());
    Ok(Difference {
        surplus: granted.iter().filter(|right| !needs(right)).cloned().collect(),
        missing: NEEDED
            .iter()
            .filter(|right| !OPTIONAL.contains(right) && !granted.iter().any(|has| has == *right))
            .map(|right| (*right).to_owned())
            .collect(),
    })
}
