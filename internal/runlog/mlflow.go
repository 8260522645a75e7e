package runlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// MLflow is a tracking server, spoken to by version 2.0 of its REST API.
type MLflow struct {
	URI                string
	ExperimentID       string // wins over the name
	Experiment         string // name; made where it does not exist
	Token              string // or
	Username, Password string
}

// MLflowOf reads a server from the environment variables of MLflow's own client; nil where none is named.
func MLflowOf(env func(name string) string) *MLflow {
	uri := env("MLFLOW_TRACKING_URI")
	if uri == "" {
		return nil
	}
	m := &MLflow{URI: uri, ExperimentID: env("MLFLOW_EXPERIMENT_ID"), Experiment: env("MLFLOW_EXPERIMENT_NAME"), Token: env("MLFLOW_TRACKING_TOKEN"),
		Username: env("MLFLOW_TRACKING_USERNAME"), Password: env("MLFLOW_TRACKING_PASSWORD")}
	if m.Experiment == "" {
		m.Experiment = "Default"
	}
	return m
}

const (
	queueLength = 4096                   // events that wait for the server; of more the newest are dropped
	batchSize   = 1000                   // metrics of a request, MLflow's limit
	paramBatch  = 100                    // parameters of a request, MLflow's limit
	paramLength = 250                    // letters of a parameter's value, the limit of older servers
	flushEvery  = 2 * time.Second        // time that metrics are collected for a request
	requestTime = 5 * time.Second        // for a request
	closeTime   = 2 * time.Second        // for all that is left when a run ends, of which
	statusTime  = 500 * time.Millisecond // for telling how it ended
	firstPause  = 500 * time.Millisecond // after a failure, doubled with each further one
	longPause   = time.Minute
)

// metric is a value as the server takes it.
type metric struct {
	Key       string  `json:"key"`
	Value     float64 `json:"value"`
	Timestamp int64   `json:"timestamp"` // milliseconds since 1970
	Step      int     `json:"step"`
}

// tracker sends a run to a server from a goroutine of its own. Training hands it metrics and never waits: what the queue
// cannot hold, of a server that is slow or away, is dropped.
type tracker struct {
	quiet
	server  MLflow
	base    string
	client  *http.Client
	run     Run
	folder  string
	queue   chan []metric
	ended   chan error // how the run ended
	done    chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	id      string // of the run on the server; empty until it is made
	params  []setting
	pending []metric
	dropped bool // and told
	told    bool // of a failure
}

func newTracker(server MLflow, r Run, folder string) (*tracker, error) {
	u, err := url.Parse(server.URI)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("MLFLOW_TRACKING_URI is no address that begins with http:// or https://")
	}
	list, err := settings(r.Recipe)
	if err != nil {
		return nil, err
	}
	t := &tracker{server: server, base: strings.TrimSuffix(server.URI, "/") + "/api/2.0/mlflow/", run: r, folder: folder, params: list,
		client: &http.Client{Timeout: requestTime, Transport: http.DefaultTransport.(*http.Transport).Clone()},
		queue:  make(chan []metric, queueLength), ended: make(chan error, 1), done: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	go t.serve()
	return t, nil
}

// key is a name that the server takes.
func key(name string) string {
	return strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("_-. /", r) {
			return r
		}
		return '_'
	}, name)
}

// send queues the values that are numbers.
func (t *tracker) send(step int, values map[string]float64) {
	now := time.Now().UnixMilli()
	var list []metric
	for name, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			list = append(list, metric{key(name), v, now, step})
		}
	}
	select {
	case t.queue <- list:
	default:
		if !t.dropped {
			t.dropped = true
			slog.Warn("the MLflow server is slower than the run: some values are dropped, and this is said once")
		}
	}
}

func (t *tracker) step(s Step) error {
	values := map[string]float64{"step/loss": s.Loss, "step/learning_rate": s.Rate, "step/gradient_norm": s.GradientNorm,
		"step/seconds": s.Seconds, "step/waited": s.Waited}
	for _, p := range s.Parts {
		values["step/"+p.Name] = p.Value
	}
	t.send(s.Step, values)
	return nil
}

func (t *tracker) epoch(e Epoch) error {
	values := map[string]float64{"epoch/train_loss": e.TrainLoss, "epoch/val_loss": e.ValLoss, "epoch/dice": e.Dice,
		"epoch/ema_dice": e.EMA, "epoch/learning_rate": e.Rate, "epoch/seconds": e.Seconds, "epoch/waiting": e.Waiting}
	for i, d := range e.ClassDice {
		values["dice/"+t.label(i)] = d
	}
	t.send(e.Step, values)
	return nil
}

// label is the name of foreground class i as the server takes it. Names that the server cannot tell apart get their number.
func (t *tracker) label(i int) string {
	name := key(className(t.run.Classes, i))
	for other := range t.run.Classes {
		if other != i && key(t.run.Classes[other]) == name {
			return fmt.Sprint(name, " ", i+1)
		}
	}
	return name
}

// close gives the goroutine a short time to send what is left.
func (t *tracker) close(failed error) error {
	late := time.AfterFunc(closeTime-statusTime, t.cancel)
	defer late.Stop()
	t.ended <- failed
	<-t.done
	return nil
}

// serve is the goroutine.
func (t *tracker) serve() {
	defer close(t.done)
	defer t.client.CloseIdleConnections()
	defer t.cancel()
	pause := firstPause
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		queue := t.queue
		if len(t.pending) >= batchSize {
			queue = nil // the server is behind: leave the rest in the queue
		}
		select {
		case list := <-queue:
			t.pending = append(t.pending, list...)
			continue
		case <-wait.C:
			if t.flush() == nil {
				pause = firstPause
				wait.Reset(flushEvery)
				if len(t.queue) > 0 {
					wait.Reset(0)
				}
			} else {
				wait.Reset(pause)
				pause = min(2*pause, longPause)
			}
		case failed := <-t.ended:
			t.end(failed)
			return
		}
	}
}

// end sends what is left, unless the server fails again, and says how the run ended.
func (t *tracker) end(failed error) {
	for err := t.flush(); err == nil; err = t.flush() {
		if len(t.queue) == 0 && len(t.pending) == 0 {
			break
		}
	}
	if t.id == "" {
		return
	}
	var cancel context.CancelFunc
	t.ctx, cancel = context.WithTimeout(context.Background(), statusTime) // also where a backlog has used up its time
	defer cancel()
	status := "FINISHED"
	switch {
	case errors.Is(failed, context.Canceled):
		status = "KILLED"
	case failed != nil:
		status = "FAILED"
	}
	t.check(t.post("runs/update", map[string]any{"run_id": t.id, "status": status, "end_time": time.Now().UnixMilli()}, nil))
}

// flush makes the run on the server, unless it is there, and sends what is pending.
func (t *tracker) flush() error {
	for len(t.pending) < batchSize {
		select {
		case list := <-t.queue:
			t.pending = append(t.pending, list...)
			continue
		default:
		}
		break
	}
	if err := t.check(t.start()); err != nil {
		return err
	}
	for len(t.params) > 0 {
		n := min(paramBatch, len(t.params))
		params := []map[string]string{}
		for _, p := range t.params[:n] {
			text := []rune(fmt.Sprint(p.value))
			params = append(params, map[string]string{"key": key(p.name), "value": string(text[:min(len(text), paramLength)])})
		}
		if err := t.check(t.post("runs/log-batch", map[string]any{"run_id": t.id, "params": params}, nil)); retry(err) {
			return err
		}
		t.params = t.params[n:]
	}
	for len(t.pending) > 0 {
		n := min(batchSize, len(t.pending))
		if err := t.check(t.post("runs/log-batch", map[string]any{"run_id": t.id, "metrics": t.pending[:n]}, nil)); retry(err) {
			return err
		}
		t.pending = t.pending[n:]
	}
	t.pending = nil
	return nil
}

// experiment is the id of the experiment, which is made where there is none.
func (t *tracker) experiment() (id string, err error) {
	if t.server.ExperimentID != "" {
		return t.server.ExperimentID, nil
	}
	var found struct {
		Experiment struct {
			ID string `json:"experiment_id"`
		}
	}
	find := func() error {
		return t.call(http.MethodGet, "experiments/get-by-name?experiment_name="+url.QueryEscape(t.server.Experiment), nil, &found)
	}
	if err = find(); !answered(err, http.StatusNotFound) {
		return found.Experiment.ID, err
	}
	var made struct {
		ID string `json:"experiment_id"`
	}
	err = t.post("experiments/create", map[string]any{"name": t.server.Experiment}, &made)
	if answered(err, http.StatusBadRequest) { // another run was faster
		err = find()
		return found.Experiment.ID, err
	}
	return made.ID, err
}

// start makes the run, unless it is there.
func (t *tracker) start() error {
	if t.id != "" {
		return nil
	}
	experiment, err := t.experiment()
	if err != nil {
		return err
	}
	var made struct {
		Run struct {
			Info struct {
				ID string `json:"run_id"`
			}
		}
	}
	err = t.post("runs/create", map[string]any{"experiment_id": experiment,
		"start_time": time.Now().UnixMilli(), "run_name": t.run.Name, "tags": []map[string]string{
			{"key": "mlflow.runName", "value": t.run.Name}, {"key": "mlflow.source.name", "value": "masksam"},
			{"key": "folder", "value": t.folder}, {"key": "first_step", "value": fmt.Sprint(t.run.Step + 1)}}}, &made)
	if err == nil && made.Run.Info.ID == "" {
		err = errors.New("the server named no run")
	}
	t.id = made.Run.Info.ID
	return err
}

// refusal is an answer other than success.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("the server answers %d: %s", r.status, r.text) }

// answered tells whether err is the server's answer of that status.
func answered(err error, status int) bool {
	var refused *refusal
	return errors.As(err, &refused) && refused.status == status
}

// retry tells whether a request may succeed later: not where the server found it wrong.
func retry(err error) bool { return err != nil && !answered(err, http.StatusBadRequest) }

// check tells once that the server cannot be used.
func (t *tracker) check(err error) error {
	if err != nil && !t.told && t.ctx.Err() == nil {
		t.told = true
		slog.Warn("the MLflow server takes no values now; the run goes on and tries again, and this is said once", "error", err)
	}
	return err
}

func (t *tracker) post(path string, body, answer any) error {
	return t.call(http.MethodPost, path, body, answer)
}

// call sends a request, and reads its answer unless answer is nil.
func (t *tracker) call(method, path string, body, answer any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(t.ctx, method, t.base+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	switch {
	case t.server.Token != "":
		request.Header.Set("Authorization", "Bearer "+t.server.Token)
	case t.server.Username != "":
		request.SetBasicAuth(t.server.Username, t.server.Password)
	}
	response, err := t.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return &refusal{response.StatusCode, strings.TrimSpace(string(text[:min(len(text), 300)]))}
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
