//! `deploy/kubernetes`: valid, and what it says of tollgate is true.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Output},
};

use clap::CommandFactory as _;
use serde_json::{Value, json};
use tollgate::{cli::Cli, rulefile};

use crate::support::{
    client, envoy, free_port,
    manifests::{self, of_kind},
    program,
    redis::Redis,
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const INSTALL: &str = "install it with: scripts/install-test-deps.sh";

/// The newest Kubernetes that kubernetes-validate knows, and the oldest that has all we use.
const VERSIONS: [&str; 2] = ["1.37", "1.30"];

/// Folders that kustomize builds.
const BUILT: [&str; 3] = ["base", "quickstart", "sidecar"];

/// Files for each mesh or ingress, which are applied as they are.
const APPLIED: [&str; 6] = [
    "istio/authorization-policy.yaml",
    "envoy-gateway/security-policy.yaml",
    "contour/contour.yaml",
    "emissary/auth-service.yaml",
    "ingress-nginx/ingress.yaml",
    "traefik/middleware.yaml",
];

fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{command:?}: {status}\n{out}{err}");
    out.into_owned()
}

/// What `kubectl apply -k` would apply.
fn kustomize(folder: &Path) -> Vec<Value> {
    let kubectl = program::find("kubectl", None, INSTALL);
    let built = run(Command::new(kubectl).arg("kustomize").arg(folder));
    manifests::parse(&built)
}

fn built(folder: &str) -> Vec<Value> {
    kustomize(&Path::new("deploy/kubernetes").join(folder))
}

/// Checks a resource of Kubernetes' own against its published schema.
fn check_core(resources: &[&Value]) {
    let validate = program::find("kubernetes-validate", None, INSTALL);
    let dir = tempfile::tempdir().unwrap();
    for (number, resource) in resources.iter().enumerate() {
        let file = dir.path().join(format!("{number}.yaml"));
        fs::write(file, serde_yaml::to_string(resource).unwrap()).unwrap();
    }
    let files = fs::read_dir(dir.path()).unwrap();
    let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    for version in VERSIONS {
        let mut command = Command::new(&validate);
        let command = command.args(["--strict", "--quiet", "-k", version]);
        run(command.args(&files));
    }
}

/// Checks a custom resource against the schema of its project.
fn check_custom(schemas: &Value, kind: &str, resource: &Value, spec: &Value) {
    let schema = &schemas[kind];
    assert!(schema.is_object(), "tests/schemas/crds.yaml has no {kind}");
    assert_eq!(resource["apiVersion"], schema["apiVersion"], "{kind}");
    let validator = jsonschema::validator_for(&schema["spec"]).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(spec)
        .map(|error| format!("{kind}: {}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

fn is_core(resource: &Value) -> bool {
    let api = resource["apiVersion"].as_str().unwrap();
    let group = api.split_once('/').map_or("", |(group, _)| group);
    !group.contains('.') || ["networking.k8s.io", "policy", "autoscaling", "apps"].contains(&group)
}

fn check_all(resources: &[Value]) {
    let text = fs::read_to_string("tests/schemas/crds.yaml").unwrap();
    let schemas = &manifests::parse(&text)[0];
    let (core, custom): (Vec<&Value>, Vec<&Value>) =
        resources.iter().partition(|resource| is_core(resource));
    check_core(&core);
    for resource in custom {
        let kind = resource["kind"].as_str().unwrap();
        check_custom(schemas, kind, resource, &resource["spec"]);
    }
}

#[test]
fn manifests_fit_the_published_schemas() {
    let mut resources: Vec<Value> = BUILT.iter().flat_map(|folder| built(folder)).collect();
    resources.extend(APPLIED.iter().flat_map(|file| manifests::read(file)));
    resources.extend(manifests::read("components/podmonitor/podmonitor.yaml"));
    assert!(resources.len() > 30, "{}", resources.len());
    check_all(&resources);
    let text = fs::read_to_string("tests/schemas/crds.yaml").unwrap();
    let schemas = &manifests::parse(&text)[0];
    let mesh = manifests::read("istio/mesh-config.yaml");
    let providers = &mesh[0]["meshConfig"]["extensionProviders"];
    check_custom(schemas, "extensionProviders", &mesh[0], providers);
}

/// A misspelt field is found, in a resource of Kubernetes' own and in a custom one.
#[test]
#[should_panic = "failOpne"]
fn a_misspelt_field_does_not_fit() {
    let mut policies = manifests::read("envoy-gateway/security-policy.yaml");
    policies[0]["spec"]["extAuth"]["failOpne"] = true.into();
    check_all(&policies);
}

#[test]
#[should_panic = "securityContxt"]
fn a_misspelt_field_of_a_pod_does_not_fit() {
    let mut deployment = of_kind(&built("base"), "Deployment").clone();
    deployment["spec"]["template"]["spec"]["securityContxt"] = json!({});
    check_all(&[deployment]);
}

/// The folders of components and of the documents build too.
#[test]
fn the_kustomizations_in_the_documents_build() {
    let document = fs::read_to_string("docs/kubernetes.md").unwrap();
    let mut count = 0;
    for part in document.split("```yaml\n").skip(1) {
        let block = part.split("```").next().unwrap();
        if !block.contains("kind: Kustomization") {
            continue;
        }
        // kustomize takes no absolute paths.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let up = "../".repeat(dir.path().canonicalize().unwrap().components().count() - 1);
        let here = env::current_dir().unwrap();
        let ours = format!("{up}{}/deploy/", here.strip_prefix("/").unwrap().display());
        let block = block.replace("../deploy/", &ours);
        fs::write(dir.path().join("kustomization.yaml"), block).unwrap();
        fs::copy("config/rules.yaml", dir.path().join("rules.yaml")).unwrap();
        let resources = kustomize(dir.path());
        check_all(&resources);
        let rules = resources.iter().find(|resource| {
            resource["kind"] == "ConfigMap" && resource["metadata"]["name"] == "tollgate-rules"
        });
        let rules = rules.unwrap()["data"]["rules.yaml"].as_str().unwrap();
        assert_eq!(rules, fs::read_to_string("config/rules.yaml").unwrap());
        count += 1;
    }
    assert!(count >= 1);
}

/// The template of a Deployment's pods.
fn pods(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]
}

/// All containers of a Deployment's pods.
fn containers(deployment: &Value) -> Vec<&Value> {
    let pod = pods(deployment);
    let lists = [&pod["initContainers"], &pod["containers"]];
    lists
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .collect()
}

fn deployments(folder: &str) -> Vec<Value> {
    let resources = built(folder).into_iter();
    resources
        .filter(|resource| resource["kind"] == "Deployment")
        .collect()
}

fn container<'a>(deployment: &'a Value, name: &str) -> &'a Value {
    let mut found = containers(deployment).into_iter();
    found.find(|container| container["name"] == name).unwrap()
}

fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let variables = container["env"].as_array()?;
    let found = variables.iter().find(|variable| variable["name"] == name)?;
    found["value"].as_str()
}

#[test]
fn every_container_runs_with_as_little_as_possible() {
    for folder in BUILT {
        for deployment in deployments(folder) {
            let pod = pods(&deployment);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{folder}");
            let profile = &pod["securityContext"]["seccompProfile"]["type"];
            assert_eq!(profile, "RuntimeDefault", "{folder}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{folder}");
            for container in containers(&deployment) {
                let name = &container["name"];
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
                let memory = &container["resources"]["limits"]["memory"];
                assert!(memory.is_string(), "{name}");
            }
        }
    }
}

/// Commands, flags, variables and their values are those of this version.
#[test]
fn containers_of_tollgate_have_a_command_line_that_is_valid() {
    let version = format!("tollgate:{}", env!("CARGO_PKG_VERSION"));
    let mut count = 0;
    for folder in BUILT {
        for deployment in deployments(folder) {
            for container in containers(&deployment) {
                let image = container["image"].as_str().unwrap();
                if !image.contains("tollgate:") {
                    continue;
                }
                assert!(image.ends_with(&version), "{folder}: {image}");
                let command = container["args"][0].as_str().unwrap();
                let cli = Cli::command();
                let subcommand = cli.find_subcommand(command).unwrap();
                let mut line = vec!["tollgate".to_owned(), command.to_owned()];
                for variable in container["env"].as_array().unwrap() {
                    let name = variable["name"].as_str().unwrap();
                    let flag = subcommand
                        .get_arguments()
                        .find(|flag| flag.get_env().is_some_and(|env| env == name))
                        .unwrap_or_else(|| panic!("{folder}: no option has {name}"));
                    let value = variable["value"].as_str().unwrap_or("from a secret");
                    line.push(format!("--{}={value}", flag.get_long().unwrap()));
                }
                Cli::command()
                    .try_get_matches_from(&line)
                    .unwrap_or_else(|error| panic!("{folder}: {error}"));
                count += 1;
            }
        }
    }
    assert_eq!(count, 4);
}

#[test]
fn the_parts_of_the_base_fit_together() {
    let resources = built("base");
    let deployment = of_kind(&resources, "Deployment");
    let tollgate = container(deployment, "tollgate");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    // What selects pods selects these, and no selector is empty: that would be all pods.
    for (kind, selector) in [
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Deployment", "/spec/selector/matchLabels"),
    ] {
        let selector = of_kind(&resources, kind).pointer(selector).unwrap();
        let selector = selector.as_object().unwrap();
        assert!(!selector.is_empty(), "{kind}");
        for (name, value) in selector {
            assert_eq!(&labels[name], value, "{kind}: {name}");
        }
    }
    for constraint in pods(deployment)["topologySpreadConstraints"]
        .as_array()
        .unwrap()
    {
        for (name, value) in constraint["labelSelector"]["matchLabels"]
            .as_object()
            .unwrap()
        {
            assert_eq!(&labels[name], value);
        }
    }
    // The ports are those that the image listens on.
    let dockerfile = fs::read_to_string("Dockerfile").unwrap();
    let ports = tollgate["ports"].as_array().unwrap();
    for (port, variable) in ports.iter().zip(["TOLLGATE_LISTEN", "TOLLGATE_ADMIN"]) {
        let setting = format!("{variable}=0.0.0.0:{}", port["containerPort"]);
        assert!(dockerfile.contains(&setting), "{setting}");
    }
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(
        annotations["prometheus.io/port"],
        ports[1]["containerPort"].to_string()
    );
    let service = of_kind(&resources, "Service");
    assert_eq!(
        service["spec"]["ports"].as_array().unwrap().len(),
        1,
        "not the admin port"
    );
    assert_eq!(service["spec"]["ports"][0]["targetPort"], ports[0]["name"]);
    assert_eq!(
        service["spec"]["ports"][0]["port"],
        ports[0]["containerPort"]
    );
    let policy = of_kind(&resources, "NetworkPolicy");
    let opened = policy["spec"]["ingress"].as_array().unwrap().iter();
    let opened: Vec<&Value> = opened.map(|rule| &rule["ports"][0]["port"]).collect();
    assert_eq!(opened, [&ports[0]["name"], &ports[1]["name"]]);
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(tollgate[probe]["httpGet"]["port"], "admin", "{probe}");
    }
    let scaler = of_kind(&resources, "HorizontalPodAutoscaler");
    assert_eq!(
        scaler["spec"]["scaleTargetRef"]["name"],
        deployment["metadata"]["name"]
    );
    assert!(
        deployment["spec"].get("replicas").is_none(),
        "the scaler has it"
    );
    let least = scaler["spec"]["minReplicas"].to_string();
    assert_eq!(variable(tollgate, "TOLLGATE_REPLICAS"), Some(&*least));
    // As in docker-compose.yml, whose numbers were measured.
    let compose = fs::read_to_string("docker-compose.yml").unwrap();
    let connections = variable(tollgate, "TOLLGATE_MAX_CONNECTIONS").unwrap();
    assert!(compose.contains(&format!("TOLLGATE_MAX_CONNECTIONS: {connections}")));
    assert!(compose.contains("mem_limit: 128m"));
    assert_eq!(tollgate["resources"]["limits"]["memory"], "128Mi");
}

/// Before the kubelet kills it, a pod has slept and drained.
#[test]
fn a_pod_has_the_time_to_drain() {
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let mut flags = serve.get_arguments();
    let drain = flags.find(|flag| flag.get_id() == "drain_timeout").unwrap();
    let drain = drain.get_default_values()[0].to_str().unwrap();
    let drain: u64 = drain.strip_suffix('s').unwrap().parse().unwrap();
    for (folder, name) in [("base", "tollgate"), ("sidecar", "envoy")] {
        let resources = built(folder);
        let deployment = of_kind(&resources, "Deployment");
        let sleep = &container(deployment, name)["lifecycle"]["preStop"]["sleep"]["seconds"];
        let grace = &pods(deployment)["terminationGracePeriodSeconds"];
        let (sleep, grace) = (sleep.as_u64().unwrap(), grace.as_u64().unwrap());
        assert!(sleep + drain < grace, "{folder}: {sleep} {drain} {grace}");
    }
}

/// Rules are a directory under a name that stays, so that a change is a reload.
#[test]
fn rules_are_mounted_so_that_a_change_is_a_reload() {
    for (folder, name) in [("base", "tollgate"), ("sidecar", "tollgate")] {
        let resources = built(folder);
        let deployment = of_kind(&resources, "Deployment");
        let mounts = container(deployment, name)["volumeMounts"]
            .as_array()
            .unwrap();
        let mount = mounts
            .iter()
            .find(|mount| mount["name"] == "rules")
            .unwrap();
        assert_eq!(mount["mountPath"], "/etc/tollgate");
        assert!(mount.get("subPath").is_none());
        let dockerfile = fs::read_to_string("Dockerfile").unwrap();
        assert!(dockerfile.contains("TOLLGATE_RULES=/etc/tollgate/rules.yaml"));
        let volumes = pods(deployment)["volumes"].as_array().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == "rules")
            .unwrap();
        let name = &volume["configMap"]["name"];
        assert_eq!(name, "tollgate-rules", "{folder}: without a hash");
        let mut maps = resources.iter().filter(|r| r["kind"] == "ConfigMap");
        let map = maps.find(|map| &map["metadata"]["name"] == name).unwrap();
        let rules = map["data"]["rules.yaml"].as_str().unwrap();
        rulefile::load("rules.yaml", rules).unwrap_or_else(|report| panic!("{folder}: {report}"));
    }
}

/// The paths of the probes answer, and readiness does not depend on Redis.
#[tokio::test(flavor = "multi_thread")]
async fn probes_find_a_tollgate_without_redis_ready() {
    let redis = Redis::start();
    let rules = "{ version: 1, rules: [{ name: all, limit: 1/s }] }";
    let tollgate = Tollgate::start(Settings {
        rules,
        redis: Some(&redis),
        ..Settings::default()
    })
    .await;
    drop(redis);
    tollgate.until_status("degraded").await;
    let mut paths = BTreeSet::new();
    for folder in BUILT {
        for deployment in deployments(folder) {
            for container in containers(&deployment) {
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    let path = container[probe]["httpGet"]["path"].as_str();
                    paths.extend(path.map(str::to_owned));
                }
            }
        }
    }
    assert_eq!(paths.len(), 2);
    for path in paths {
        assert_eq!(tollgate.ask_admin(&path).await.status, 200, "{path}");
    }
}

/// What each mesh or ingress is told of tollgate is where it is, and how it must be asked.
#[test]
fn proxies_are_told_where_tollgate_is() {
    let resources = built("base");
    let service = of_kind(&resources, "Service");
    let name = service["metadata"]["name"].as_str().unwrap();
    let namespace = service["metadata"]["namespace"].as_str().unwrap();
    let port = &service["spec"]["ports"][0]["port"];
    let host = format!("{name}.{namespace}.svc.cluster.local");
    let mesh = manifests::read("istio/mesh-config.yaml");
    let istio = &mesh[0]["meshConfig"]["extensionProviders"][0]["envoyExtAuthzHttp"];
    assert_eq!(istio["service"], format!("{namespace}/{host}"));
    assert_eq!(&istio["port"], port);
    let gateway = manifests::read("envoy-gateway/security-policy.yaml");
    let gateway = &of_kind(&gateway, "SecurityPolicy")["spec"]["extAuth"];
    let backend = &gateway["http"]["backendRefs"][0];
    assert_eq!(
        backend,
        &json!({ "name": name, "namespace": namespace, "port": port })
    );
    let contour = manifests::read("contour/contour.yaml");
    let extension = of_kind(&contour, "ExtensionService");
    assert_eq!(extension["metadata"]["namespace"], namespace);
    assert_eq!(
        extension["spec"]["services"][0],
        json!({ "name": name, "port": port })
    );
    assert_eq!(
        extension["spec"]["protocol"], "http/1.1",
        "HTTP/2 is refused"
    );
    let authorization = &of_kind(&contour, "HTTPProxy")["spec"]["virtualhost"]["authorization"];
    let emissary = manifests::read("emissary/auth-service.yaml");
    let emissary = &of_kind(&emissary, "AuthService")["spec"];
    assert_eq!(
        emissary["auth_service"],
        format!("{name}.{namespace}:{port}")
    );
    let ingress = manifests::read("ingress-nginx/ingress.yaml");
    let url = &ingress[0]["metadata"]["annotations"]["nginx.ingress.kubernetes.io/auth-url"];
    assert_eq!(url, &format!("http://{host}:{port}/v1/auth-request"));
    let traefik = manifests::read("traefik/middleware.yaml");
    let traefik = &of_kind(&traefik, "Middleware")["spec"]["forwardAuth"];
    assert_eq!(traefik["address"], format!("http://{host}:{port}/v1/check"));
    for prefix in [
        &istio["pathPrefix"],
        &gateway["http"]["path"],
        &authorization["httpSettings"]["pathPrefix"],
        &emissary["path_prefix"],
    ] {
        assert_eq!(prefix, "/v1/envoy");
    }
    // The headers that rules may count on are sent; x-real-ip is never the client's own.
    let exact = |header: &Value| header["exact"].as_str().unwrap().to_owned();
    let contour = authorization["httpSettings"]["allowedAuthorizationHeaders"]
        .as_array()
        .unwrap();
    let contour: Vec<String> = contour.iter().map(exact).collect();
    for list in [
        istio["includeRequestHeadersInCheck"].clone(),
        gateway["headersToExtAuth"].clone(),
        contour.into(),
        emissary["allowed_request_headers"].clone(),
        traefik["authRequestHeaders"].clone(),
    ] {
        let list: Vec<String> = serde_json::from_value(list).unwrap();
        let list: Vec<String> = list.iter().map(|name| name.to_ascii_lowercase()).collect();
        for name in rulefile::SHIPPED_HEADERS {
            assert!(list.iter().any(|listed| listed == name), "{list:?}");
        }
        assert!(
            !list
                .iter()
                .any(|name| name == "x-real-ip" || name.contains('*'))
        );
    }
}

/// The Envoy beside tollgate is the one that is shipped, with other addresses.
/// `TOLLGATE_TEST_WRITE=1` writes it.
#[test]
fn the_envoy_of_the_sidecar_is_the_shipped_one() {
    let shipped = include_str!("../../envoy/envoy.yaml");
    let (_, rest) = shipped.split_once("\nadmin:").unwrap();
    let head = "# Envoy beside tollgate in one pod: envoy/envoy.yaml, which has the reasons, with other addresses. A test holds the two together.\n";
    let text = format!("{head}\nadmin:{rest}");
    let config = program::Config::new("envoy.yaml", &text)
        .with(
            "type: STRICT_DNS                       # every address of the name is a replica; they share Redis, so any can answer",
            "type: STATIC                           # the tollgate of this pod",
        )
        .with(
            "socket_address: { address: tollgate, port_value: 8081 }\n              # Unix socket: `pipe: { path: /run/tollgate.sock }` instead, and `type: STATIC` above\n",
            "pipe: { path: /run/tollgate/check.sock }\n",
        )
        .with("{ address: upstream, port_value: 8083 }", "{ address: 127.0.0.1, port_value: 8083 }");
    let path = "deploy/kubernetes/sidecar/envoy.yaml";
    if env::var_os("TOLLGATE_TEST_WRITE").is_some() {
        fs::write(path, config.text()).unwrap();
    }
    let ours = fs::read_to_string(path).unwrap();
    assert!(ours == config.text(), "TOLLGATE_TEST_WRITE=1 writes {path}");
}

/// And it works, over the socket.
#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_limits() {
    let resources = built("sidecar");
    let deployment = of_kind(&resources, "Deployment");
    let socket = variable(container(deployment, "tollgate"), "TOLLGATE_LISTEN").unwrap();
    let path = socket.strip_prefix("unix:").unwrap();
    for name in ["tollgate", "envoy"] {
        let mounts = container(deployment, name)["volumeMounts"]
            .as_array()
            .unwrap();
        let mut mounts = mounts.iter().filter(|mount| mount["name"] == "socket");
        let mount = mounts.next().unwrap()["mountPath"].as_str().unwrap();
        assert!(path.starts_with(mount), "{name}: {mount}");
    }
    let upstream = Upstream::start().await;
    let rules = fs::read_to_string("deploy/kubernetes/sidecar/rules.yaml").unwrap();
    let tollgate = Tollgate::start(Settings {
        rules: &rules,
        unix: true,
        ..Settings::default()
    })
    .await;
    let (port, admin) = (free_port(), free_port());
    let ours = tollgate.listen.to_string();
    let text = fs::read_to_string("deploy/kubernetes/sidecar/envoy.yaml").unwrap();
    let config = program::Config::new("envoy.yaml", &text)
        .with(path, ours.strip_prefix("unix:").unwrap())
        .with(
            "address: 0.0.0.0, port_value: 8080",
            &format!("address: 127.0.0.1, port_value: {port}"),
        )
        .with("port_value: 9901", &format!("port_value: {admin}"))
        .with(
            "port_value: 8083",
            &format!("port_value: {}", upstream.addr.port()),
        );
    let envoy = envoy::Envoy::run(config.text(), port, admin, &[]).await;
    for status in [200, 200, 200, 200, 200, 429] {
        assert_eq!(client::get(envoy.addr, "/data").await.status, status);
    }
    assert_eq!(upstream.count(), 5);
}
