package runlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is an MLflow server that keeps what it is told.
type server struct {
	sync.Mutex
	*httptest.Server
	t          *testing.T
	fail       func(path string) int // status to answer with instead; 0: none
	known      bool                  // the experiment exists
	experiment string
	name       string
	tags       map[string]string
	params     map[string]string
	metrics    map[string][]metric
	status     string
	largest    int // number of metrics of a request
	auth       []string
}

func newServer(t *testing.T) *server {
	s := &server{t: t, params: map[string]string{}, metrics: map[string][]metric{}, tags: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	s.Lock()
	defer s.Unlock()
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	path, ok := strings.CutPrefix(r.URL.Path, "/base/api/2.0/mlflow/")
	if !ok {
		s.t.Errorf("path %s", r.URL.Path)
	}
	if s.fail != nil {
		if status := s.fail(path); status != 0 {
			http.Error(w, `{"error_code": "TEMPORARILY_UNAVAILABLE"}`, status)
			return
		}
	}
	var body struct {
		Name       string
		Experiment string `json:"experiment_id"`
		Run        string `json:"run_id"`
		RunName    string `json:"run_name"`
		Status     string
		Start      int64 `json:"start_time"`
		End        int64 `json:"end_time"`
		Metrics    []metric
		Params     []struct{ Key, Value string }
		Tags       []struct{ Key, Value string }
	}
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			s.t.Error(err)
		}
	}
	switch path {
	case "experiments/get-by-name":
		s.experiment = r.URL.Query().Get("experiment_name")
		if !s.known {
			http.Error(w, `{"error_code": "RESOURCE_DOES_NOT_EXIST"}`, http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `{"experiment": {"experiment_id": "7", "name": "x"}}`)
	case "experiments/create":
		s.known = true
		s.experiment = body.Name
		fmt.Fprint(w, `{"experiment_id": "7"}`)
	case "runs/create":
		if body.Experiment != "7" || body.Start < 1e12 {
			s.t.Errorf("runs/create of experiment %q at %d", body.Experiment, body.Start)
		}
		s.name = body.RunName
		for _, tag := range body.Tags {
			s.tags[tag.Key] = tag.Value
		}
		fmt.Fprint(w, `{"run": {"info": {"run_id": "abc", "run_uuid": "abc"}, "data": {}}}`)
	case "runs/log-batch":
		if body.Run != "abc" {
			s.t.Errorf("run %q", body.Run)
		}
		s.largest = max(s.largest, len(body.Metrics), 10*len(body.Params))
		for _, m := range body.Metrics {
			s.metrics[m.Key] = append(s.metrics[m.Key], m)
		}
		for _, p := range body.Params {
			s.params[p.Key] = p.Value
		}
		fmt.Fprint(w, `{}`)
	case "runs/update":
		if body.Run != "abc" || body.End < 1e12 {
			s.t.Errorf("runs/update of %q at %d", body.Run, body.End)
		}
		s.status = body.Status
		fmt.Fprint(w, `{"run_info": {}}`)
	default:
		s.t.Errorf("path %s", path)
	}
}

// environment is that of MLflow's client.
func environment(values map[string]string) *MLflow {
	return MLflowOf(func(name string) string { return values[name] })
}

func (s *server) log(o map[string]string) *Log {
	o["MLFLOW_TRACKING_URI"] = s.URL + "/base/"
	l := Open(s.t.TempDir(), Options{Without: Kinds, MLflow: environment(o)})
	l.Start(testRun)
	return l
}

func TestMLflow(t *testing.T) {
	if environment(nil) != nil {
		t.Error("without an address there is a server")
	}
	for _, c := range []struct {
		env    map[string]string
		known  bool
		failed error
		status string
		auth   string
		name   string
	}{
		{map[string]string{}, true, nil, "FINISHED", "", "Default"},
		{map[string]string{"MLFLOW_EXPERIMENT_NAME": "hearts & minds", "MLFLOW_TRACKING_TOKEN": "secret"}, false,
			fmt.Errorf("stopped: %w", context.Canceled), "KILLED", "Bearer secret", "hearts & minds"},
		{map[string]string{"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "pass"}, false, errors.New("no memory"), "FAILED",
			"Basic dXNlcjpwYXNz", "Default"},
	} {
		s := newServer(t)
		s.known = c.known
		told := captured(t, func() {
			l := s.log(c.env)
			epochs(l, 0, 3)
			l.Close(c.failed)
		})
		if strings.Contains(told, "MLflow") {
			t.Error(told)
		}
		if s.status != c.status || s.experiment != c.name || s.name != testRun.Name || s.tags["first_step"] != "1" {
			t.Errorf("status %s, experiment %q, run %q, tags %v", s.status, s.experiment, s.name, s.tags)
		}
		for _, auth := range s.auth {
			if auth != c.auth {
				t.Errorf("authorization %q, want %q", auth, c.auth)
			}
		}
		if s.params["train.lr"] != "0.001" || s.params["train.mirror"] != "[2]" {
			t.Errorf("parameters %v", s.params)
		}
		if m := s.metrics["step/loss"]; len(m) != 6 || m[3].Step != 4 || m[3].Value != 0.25 || m[3].Timestamp < 1e12 {
			t.Errorf("losses %v", m)
		}
		if len(s.metrics["dice/small box"]) != 3 || len(s.metrics["dice/large"]) != 0 || len(s.metrics["epoch/ema_dice"]) != 3 {
			t.Errorf("metrics %v", s.metrics) // a Dice that is no number has no place in JSON
		}
		if s.largest > batchSize {
			t.Errorf("a request of %d metrics, or a tenth as many parameters", s.largest)
		}
	}
}

// More metrics and parameters than a request may hold go in several.
func TestMLflowBatches(t *testing.T) {
	s := newServer(t)
	many := map[string]any{}
	for i := range 250 {
		many[fmt.Sprint("key", i)] = strings.Repeat("ü", 300)
	}
	l := Open(t.TempDir(), Options{Without: Kinds, MLflow: environment(map[string]string{"MLFLOW_TRACKING_URI": s.URL + "/base"})})
	r := testRun
	r.Recipe = many
	l.Start(r)
	for n := 1; n <= 500; n++ {
		step := testStep(n)
		step.Parts = append(step.Parts, Part{"ünïcode:x", 1}, Part{"infinite", math.Inf(1)})
		l.Step(step)
	}
	l.Close(nil)
	if len(s.params) != 250 || len([]rune(s.params["key7"])) != paramLength || s.largest > batchSize {
		t.Errorf("%d parameters, at most %d metrics in a request", len(s.params), s.largest)
	}
	if len(s.metrics["step/loss"]) != 500 || len(s.metrics["step/_n_code_x"]) != 500 || s.metrics["step/infinite"] != nil {
		t.Errorf("%d losses", len(s.metrics["step/loss"]))
	}
}

// A server that hangs takes no time from the run, and little from its end. What does not fit into the queue is dropped.
func TestMLflowHangs(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)
	tracker, err := newTracker(MLflow{URI: hanging.URL}, testRun, "folder")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for n := range 3 * queueLength {
		if err := tracker.step(testStep(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("logging took %v", d)
	}
	if !tracker.dropped {
		t.Error("nothing was dropped")
	}
	start = time.Now()
	tracker.close(nil)
	if d := time.Since(start); d > closeTime+time.Second {
		t.Errorf("the end took %v", d)
	}
}

// A server that does not get all values in time is told nevertheless how the run ended.
func TestMLflowBacklog(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.fail = func(path string) int {
		if path == "runs/log-batch" {
			time.Sleep(100 * time.Millisecond)
		}
		return 0
	}
	tracker, err := newTracker(MLflow{URI: s.URL + "/base", ExperimentID: "7"}, testRun, "folder")
	if err != nil {
		t.Fatal(err)
	}
	for n := range queueLength {
		if err := tracker.step(testStep(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	tracker.close(nil)
	s.Lock()
	defer s.Unlock()
	if n := len(s.metrics["step/loss"]); n == 0 || n == queueLength {
		t.Errorf("%d losses arrived; the test wants a part", n)
	}
	if s.status != "FINISHED" || s.experiment != "" {
		t.Errorf("status %q, asked for the experiment %q", s.status, s.experiment)
	}
}

// Classes whose names the server cannot tell apart are told apart by their numbers.
func TestMLflowLabels(t *testing.T) {
	tracker := &tracker{run: Run{Classes: []string{"нога", "рука", "leg"}}}
	for i, want := range []string{"____ 1", "____ 2", "leg", "class 4"} {
		if got := tracker.label(i); got != want {
			t.Errorf("class %d is called %q, want %q", i, got, want)
		}
	}
}

// A server that answers with errors, then comes back, gets all; it is warned of once.
func TestMLflowComesBack(t *testing.T) {
	s := newServer(t)
	failures := 0
	s.fail = func(path string) int {
		if failures++; failures <= 2 {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	told := captured(t, func() {
		l := s.log(map[string]string{})
		epochs(l, 0, 1)
		for range 400 { // until it has answered, 10 seconds at most
			time.Sleep(25 * time.Millisecond)
			s.Lock()
			arrived := len(s.metrics["step/loss"])
			s.Unlock()
			if arrived == 2 {
				break
			}
		}
		epochs(l, 1, 1)
		l.Close(nil)
	})
	if n := strings.Count(told, "the MLflow server takes no values now"); n != 1 {
		t.Errorf("%d warnings in\n%s", n, told)
	}
	if len(s.metrics["step/loss"]) != 4 || s.status != "FINISHED" {
		t.Errorf("losses %v, status %s", s.metrics["step/loss"], s.status)
	}
}

// A server that is gone, or refuses a request as wrong, ends neither the run nor what is logged later.
func TestMLflowIsGoneOrRefuses(t *testing.T) {
	gone := newServer(t)
	told := captured(t, func() {
		l := gone.log(map[string]string{})
		epochs(l, 0, 1)
		gone.Close()
		epochs(l, 1, 2)
		start := time.Now()
		l.Close(nil)
		if d := time.Since(start); d > closeTime+time.Second {
			t.Errorf("the end took %v", d)
		}
	})
	if n := strings.Count(told, "MLflow"); n != 1 {
		t.Errorf("%d warnings in\n%s", n, told)
	}

	refusing := newServer(t)
	first := true
	refusing.fail = func(path string) int {
		if path == "runs/log-batch" && first {
			first = false
			return http.StatusBadRequest
		}
		return 0
	}
	captured(t, func() {
		l := refusing.log(map[string]string{})
		epochs(l, 0, 1)
		l.Close(nil)
	})
	if len(refusing.metrics["step/loss"]) != 2 || refusing.status != "FINISHED" {
		t.Errorf("metrics %v, status %s", refusing.metrics, refusing.status)
	}

	wrong := captured(t, func() {
		l := Open(t.TempDir(), Options{Without: Kinds, MLflow: environment(map[string]string{"MLFLOW_TRACKING_URI": "file:/tmp/mlruns"})})
		l.Start(testRun)
		epochs(l, 0, 1)
		l.Close(nil)
	})
	if !strings.Contains(wrong, "MLFLOW_TRACKING_URI is no address that begins with http") {
		t.Error(wrong)
	}
}
