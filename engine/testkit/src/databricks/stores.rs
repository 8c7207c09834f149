//! What a workspace holds beside its objects, built without any call. Where JSON is taken, it is as calls take it.

use serde_json::{Map, Value};

use super::object::{Body, Content};
use super::{FakeWorkspace, path};

/// What is there beside the objects of the workspace. What cannot be done panics.
impl FakeWorkspace {
    /// Adds a job with these settings. Returns its id.
    pub fn put_job(&self, settings: Value) -> u64 {
        self.fake.jobs.add(object(settings))
    }

    /// Adds a pipeline with this specification. Returns its id.
    pub fn put_pipeline(&self, spec: Value) -> String {
        self.fake.pipelines.add(object(spec))
    }

    /// Adds a dashboard, and an object for it in the workspace. Beside what calls take, it can have `published`, which
    /// is what the call for that is answered with, and a list of `schedules`. Returns its id.
    pub fn put_dashboard(&self, dashboard: Value) -> String {
        let draft = serde_json::from_value(dashboard).expect("this is no dashboard");
        self.fake.dashboards.add(&mut self.fake.tree.write(), draft).expect("there is room for the dashboard")
    }

    /// Makes a Git folder of the type `REPO`: `url`, `provider`, `branch`, `head_commit_id`. Returns its id.
    pub fn put_repo(&self, path: &str, repo: Value) -> u64 {
        let path = path::normal(path).unwrap_or_else(|| panic!("{path} is no path"));
        self.fake.repos.put(&mut self.fake.tree.write(), &path, object(repo)).expect("nothing is in the way")
    }

    /// Puts a secret scope: `name`, `backend_type`, `keyvault_metadata`, `secrets` (values by their keys), and `acls`
    /// (a list of `principal` and `permission`).
    pub fn put_secret_scope(&self, scope: Value) {
        self.fake.secrets.put(serde_json::from_value(scope).expect("this is no scope"));
    }

    /// Puts a catalog: `name`. Returns its name.
    pub fn put_catalog(&self, catalog: Value) -> String {
        self.fake.catalog.put("catalogs", object(catalog))
    }

    /// Puts a schema: `catalog_name`, `name`. Returns its full name.
    pub fn put_schema(&self, schema: Value) -> String {
        self.fake.catalog.put("schemas", object(schema))
    }

    /// Puts a table: `catalog_name`, `schema_name`, `name`, and so on. Returns its full name.
    pub fn put_table(&self, table: Value) -> String {
        self.fake.catalog.put("tables", object(table))
    }

    /// Puts a volume: `catalog_name`, `schema_name`, `name`, and so on. Files can be in it from then on. Returns its
    /// full name.
    pub fn put_volume(&self, volume: Value) -> String {
        let full_name = self.fake.catalog.put("volumes", object(volume));
        let path = format!("/Volumes/{}", full_name.replace('.', "/"));
        self.fake.volumes.write().mkdirs(&path).expect("no file is in the way of a volume");
        full_name
    }

    /// Puts a function: `catalog_name`, `schema_name`, `name`, and so on. Returns its full name.
    pub fn put_function(&self, function: Value) -> String {
        self.fake.catalog.put("functions", object(function))
    }

    /// Sets who may do what with something in a catalog: a list of `principal` and `privileges`.
    pub fn set_grants(&self, securable_type: &str, full_name: &str, assignments: &[Value]) {
        self.fake.catalog.set_grants(securable_type, full_name, assignments);
    }

    /// Puts a file into a volume, `/Volumes/CATALOG/SCHEMA/VOLUME/...`, or other bytes in its place. Folders on the
    /// way are made, that of the volume too.
    pub fn put_volume_file(&self, path: &str, bytes: &[u8]) {
        let mut volumes = self.fake.volumes.write();
        let (parent, name) = path::split(path);
        let put =
            volumes.mkdirs(parent).and_then(|parent| volumes.put(parent, name, Content::File(Body::stored(bytes))));
        put.unwrap_or_else(|_| panic!("something is in the way of {path}"));
    }

    /// Removes a file or a folder from a volume.
    pub fn remove_volume_file(&self, path: &str) {
        assert!(self.fake.volumes.write().remove(path), "there is no {path}");
    }

    /// Returns the bytes of a file in a volume.
    pub fn volume_file(&self, path: &str) -> Option<Vec<u8>> {
        let volumes = self.fake.volumes.read();
        let body = volumes.node(volumes.find(path)?).content.body()?;
        Some(body.bytes().to_vec())
    }

    /// Sets the permissions that an object has itself: a list of a principal (`user_name`, `group_name` or
    /// `service_principal_name`) and a `permission_level`. The collection is what the path of the call has: `notebooks`,
    /// `directories`, `jobs`, ...
    pub fn set_permissions(&self, collection: &str, id: impl ToString, entries: &[Value]) {
        self.fake.permissions.set(collection, &id.to_string(), entries).expect("these are entries");
    }

    /// Adds some of everything that a workspace has beside notebooks and files.
    pub fn generate_extras(&self) {
        self.fake.generate_extras();
    }
}

/// Returns the fields of an object in JSON.
pub(super) fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}
