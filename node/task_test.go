package node

import (
	"encoding/json"
	"strings"
	"testing"
)

// Documents as AWS publishes them, as far as they reach the node.
var documents = map[string]string{
	docSSH: `{"schemaVersion":"1.0","sessionType":"Port","parameters":{"portNumber":{"type":"String","default":"22"}},
		"properties":{"portNumber":"{{ portNumber }}"}}`,
	docForward: `{"schemaVersion":"1.0","sessionType":"Port","parameters":{"portNumber":{"type":"String","default":"80"},
		"localPortNumber":{"type":"String","default":"0"}},
		"properties":{"portNumber":"{{ portNumber }}","type":"LocalPortForwarding","localPortNumber":"{{ localPortNumber }}"}}`,
	docForward + "ToRemoteHost": `{"schemaVersion":"1.0","sessionType":"Port",
		"parameters":{"host":{"type":"String"},"portNumber":{"type":"String"},"localPortNumber":{"type":"String","default":"0"}},
		"properties":{"host":"{{ host }}","portNumber":"{{ portNumber }}","type":"LocalPortForwarding","localPortNumber":"{{ localPortNumber }}"}}`,
}

// taskPayload is a task message's payload.
func taskPayload(t testing.TB, id, document, content, parameters string) []byte {
	t.Helper()
	task := `{"DocumentName":"` + document + `","DocumentContent":` + content + `,"SessionId":"` + id + `","Parameters":` + parameters +
		`,"RunAsUser":"","SessionOwner":"arn:aws:sts::123456789012:assumed-role/dev/ada"}`
	payload, err := json.Marshal(map[string]any{
		"Content": task, "TaskId": id, "Topic": "test", "SchemaVersion": 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func someTask(t testing.TB, document string) Task {
	t.Helper()
	task, err := ParseTask(taskPayload(t, "s-1", document, documents[document], `{"portNumber":"7022"}`))
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func TestParseTask(t *testing.T) {
	for _, tc := range []struct {
		document, parameters, properties string
		port                             int
		forward                          bool
	}{
		{docSSH, `{"portNumber":"7022"}`, `{"portNumber":"7022"}`, 7022, false},
		{docSSH, `{"portNumber":["7022"]}`, `{"portNumber":"7022"}`, 7022, false},
		{docSSH, `{}`, `{"portNumber":"22"}`, 22, false},
		{docSSH, `null`, `{"portNumber":"22"}`, 22, false},
		{docForward, `{"portNumber":["1"]}`, `{"localPortNumber":"0","portNumber":"1","type":"LocalPortForwarding"}`, 1, true},
		{docForward, `{"portNumber":65535}`, `{"localPortNumber":"0","portNumber":"65535","type":"LocalPortForwarding"}`, 65535, true},
	} {
		task, err := ParseTask(taskPayload(t, "s-1", tc.document, documents[tc.document], tc.parameters))
		if err != nil {
			t.Errorf("%s %s: %v", tc.document, tc.parameters, err)
			continue
		}
		if task.SessionID != "s-1" || task.Owner != "arn:aws:sts::123456789012:assumed-role/dev/ada" || task.Document != tc.document ||
			task.Port != tc.port || task.forward != tc.forward || string(task.properties) != tc.properties {
			t.Errorf("%s %s: %+v with properties %s", tc.document, tc.parameters, task, task.properties)
		}
	}
}

func TestRefusedTasks(t *testing.T) {
	const remote = docForward + "ToRemoteHost"
	shell := strings.Replace(documents[docSSH], `"Port"`, `"Standard_Stream"`, 1)
	for name, tc := range map[string]struct{ document, content, parameters, want string }{
		"remote host": {docForward, documents[remote], `{"host":"10.0.0.1","portNumber":"80"}`, "Forwarding to IP address 10.0.0.1 is forbidden."},
		"the document for remote hosts": {remote, documents[remote], `{"host":"10.0.0.1","portNumber":"80"}`, "Document " + remote +
			" is not supported by this node"},
		"a shell": {"SSM-SessionManagerRunShell", shell, `{}`, "Plugin with name Standard_Stream is not supported in current platform. " +
			"Step name: Standard_Stream"},
		"someone's own document": {"mine", documents[docSSH], `{}`, "Document mine is not supported by this node"},
		"a later schema": {docSSH, strings.Replace(documents[docSSH], "1.0", "2.0", 1), `{}`, "Document with schema version 2.0 is not " +
			"supported by this version of ssm agent, please update to latest version"},
		"no properties":   {docSSH, `{"schemaVersion":"1.0","sessionType":"Port"}`, `{}`, "Port number is empty in session properties. map[]"},
		"port 0":          {docSSH, documents[docSSH], `{"portNumber":"0"}`, `Unable to connect to specified port: invalid port "0"`},
		"port 65536":      {docSSH, documents[docSSH], `{"portNumber":"65536"}`, `Unable to connect to specified port: invalid port "65536"`},
		"a port's name":   {docSSH, documents[docSSH], `{"portNumber":"ssh"}`, `Unable to connect to specified port: invalid port "ssh"`},
		"an unknown name": {docSSH, strings.ReplaceAll(documents[docSSH], "{{ portNumber }}", "{{ x }}"), `{}`, `Unable to connect to specified port: invalid port "{{ x }}"`},
	} {
		task, err := ParseTask(taskPayload(t, "s-1", tc.document, tc.content, tc.parameters))
		if err == nil || err.Error() != tc.want || task.SessionID != "s-1" {
			t.Errorf("%s: task %+v, error %v", name, task, err)
		}
	}
	for _, payload := range []string{"", "{}", `{"Content":"x"}`, `{"Content":"{}"}`, `{"Content":"{\"SessionId\":1}"}`} {
		if task, err := ParseTask([]byte(payload)); err == nil || task.SessionID != "" {
			t.Errorf("%q: task %+v, error %v", payload, task, err)
		}
	}
}

// FuzzParseTask checks that every accepted task has an id, a port, and properties that are JSON and name no host.
func FuzzParseTask(f *testing.F) {
	for name, content := range documents {
		f.Add(taskPayload(f, "s-1", name, content, `{"portNumber":["22"]}`))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		task, err := ParseTask(payload)
		if err != nil {
			return
		}
		var properties map[string]any
		if task.SessionID == "" || task.Port < 1 || task.Port > 65535 || json.Unmarshal(task.properties, &properties) != nil {
			t.Errorf("%+v", task)
		}
		if host, ok := properties["host"].(string); ok && host != "" {
			t.Errorf("a task for host %q", host)
		}
	})
}

func TestCompareVersions(t *testing.T) {
	ordered := []string{"", "1", "1.0.0.0", "1.1.69", "1.1.70", "1.1.70.0", "1.1.100", "1.2.331.0", "1.2.331.1", "1.2.332.0", "1.3.0.0", "x"}
	for i, a := range ordered {
		for j, b := range ordered {
			got := compareVersions(a, b)
			if i < j && got >= 0 || i > j && got <= 0 || i == j && got != 0 {
				t.Errorf("compareVersions(%q, %q) = %d", a, b, got)
			}
		}
	}
}
