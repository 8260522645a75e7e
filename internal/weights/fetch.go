package weights

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/machine"
	"masksam/internal/progress"
)

// FetchOptions say where from and where to a file is fetched.
type FetchOptions struct {
	Dir      string // made if it is not there
	From     string // address of the folder that has the file; Address, if empty
	Progress progress.Reporter
}

// URL is the address of a file that Fetch would take.
func (o Official) URL(from string) string {
	return strings.TrimSuffix(cmp.Or(from, Address), "/") + "/" + o.Name
}

// Folder is the absolute path of the folder that a file is fetched to: dir, else the one that Env names, else the current one.
func Folder(dir string) (string, error) { return filepath.Abs(cmp.Or(dir, Env(), ".")) }

const (
	partSuffix = ".part"          // of a file that is not whole
	attempts   = 9                // in a row without a byte; the waits between them are two minutes in all
	longWait   = 30 * time.Second // the longest before an attempt
	stalled    = 60 * time.Second // without a byte: the connection counts as cut
	fetchPiece = 1 << 17          // bytes
	megabyte   = 1_000_000
)

// firstWait is the time before the second attempt; each further one waits twice as long.
var firstWait = time.Second

// final is an error that another attempt cannot mend.
type final struct{ error }

func (e final) Unwrap() error { return e.error }

func isFinal(err error) bool { return errors.As(err, new(final)) }

// Fetch downloads one of SAM's files into a folder and returns its path; saved is false where the right file is there
// already, in a folder that need not be writable. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY). What a cut
// download has brought stays beside the final name under partSuffix, and the next call goes on from there. A file takes
// its final name when it has the published size and SHA-256; a wrong one is removed.
func Fetch(ctx context.Context, o Official, opt FetchOptions) (path string, saved bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch %s: %w", o.Name, err)
		}
	}()
	path = filepath.Join(opt.Dir, o.Name)
	if there, err := o.there(path); there || err != nil {
		return path, false, err
	}
	if err := os.MkdirAll(opt.Dir, 0o777); err != nil {
		return "", false, err
	}
	lock, err := atomicfile.Lock(opt.Dir, false)
	if err != nil {
		return "", false, err
	}
	defer lock.Close()
	if there, err := o.there(path); there || err != nil { // by now: another process may have ended its download
		return path, false, err
	}
	d := &download{Official: o, url: o.URL(opt.From), part: path + partSuffix, progress: progress.OrNop(opt.Progress)}
	if err := d.run(ctx); err != nil {
		return "", false, err
	}
	if err := o.verify(d.part); err != nil {
		if isFinal(err) {
			err = errors.Join(fmt.Errorf("what %s sent is not the published file: %w; it was removed", d.url, err), os.Remove(d.part))
		}
		return "", false, err
	}
	return path, true, atomicfile.Rename(d.part, path)
}

// there tells whether the published file lies at path; another file there is an error.
func (o Official) there(path string) (bool, error) {
	err := o.verify(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s is there, and is another file: %w; move it away", path, err)
	}
	return true, nil
}

// verify compares a file with the published one; a file that differs gives an error that isFinal.
func (o Official) verify(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != o.Bytes {
		return final{fmt.Errorf("it has %d bytes, the published one %d", info.Size(), o.Bytes)}
	}
	sum, err := digest(path, file)
	if err == nil && sum != o.SHA256 {
		err = final{fmt.Errorf("it has the SHA-256 %s, the published one %s", sum, o.SHA256)}
	}
	return err
}

// download is the way of one file onto the disk.
type download struct {
	Official
	url, part string
	progress  progress.Reporter
	have      int64 // bytes on the disk
}

// run attempts the download until the file has its size.
func (d *download) run(ctx context.Context) (err error) {
	f, err := os.OpenFile(d.part, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	began := false // in an earlier call
	defer func() {
		f.Close()
		if err != nil && d.have == 0 && !began {
			os.Remove(d.part)
		}
	}()
	if d.have, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	began = d.have > 0
	if d.have > d.Bytes {
		if err := d.restart(f); err != nil {
			return err
		}
	}
	if free, err := machine.Disk(d.part); err == nil && int64(free) < d.Bytes-d.have {
		return fmt.Errorf("%s more are needed on the disk of %s, %s are free", machine.Bytes(d.Bytes-d.have), d.part, free)
	}
	d.begin()
	defer d.progress.Done()

	wait := firstWait
	for failed := 0; d.have < d.Bytes; {
		before := d.have
		err := d.attempt(ctx, f)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return fmt.Errorf("stopped after %d of %d bytes, which are kept: %w", d.have, d.Bytes, ctx.Err())
		case isFinal(err):
			return err
		}
		if failed++; d.have > before {
			failed, wait = 1, firstWait
		}
		if failed == 2 { // one that was cut goes on at once as a rule
			slog.Warn("the download does not go on; more attempts follow", "error", err)
		}
		if failed == attempts {
			return fmt.Errorf("%w; %d of %d bytes are kept, and the same command goes on from there", err, d.have, d.Bytes)
		}
		for left := wait; left > 0 && ctx.Err() == nil; left -= time.Second {
			d.progress.Advance(0, fmt.Sprintf("MB, attempt %d of %d in %v", failed+1, attempts, left))
			select {
			case <-ctx.Done():
			case <-time.After(min(left, time.Second)):
			}
		}
		d.progress.Advance(0, "MB")
		wait = min(2*wait, longWait)
	}
	return f.Sync()
}

// begin reports the rest as a job, in megabytes.
func (d *download) begin() {
	d.progress.Start("fetch "+d.Encoder, int((d.Bytes-d.have)/megabyte))
	d.progress.Advance(0, "MB")
}

func (d *download) restart(f *os.File) error {
	d.have = 0
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// attempt asks for the rest of the file and writes what comes.
func (d *download) attempt(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stalled, func() { cancel(fmt.Errorf("%s sent nothing for %v", d.url, stalled)) })
	defer watch.Stop()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return final{err}
	}
	if d.have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	defer response.Body.Close()
	whole := response.StatusCode == http.StatusOK
	switch {
	case whole:
	case response.StatusCode == http.StatusPartialContent && d.have > 0:
		if got := response.Header.Get("Content-Range"); !d.rest(got) {
			return final{fmt.Errorf("%s sent the range %q; wanted is \"bytes %d-%d/%d\"", d.url, got, d.have, d.Bytes-1, d.Bytes)}
		}
	case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("%s answered %s", d.url, response.Status)
	default:
		return final{fmt.Errorf("%s answered %s", d.url, response.Status)}
	}
	if n := response.ContentLength; whole && n >= 0 && n != d.Bytes {
		return final{fmt.Errorf("%s has %d bytes; the published file has %d", d.url, n, d.Bytes)}
	}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		return final{fmt.Errorf("%s sent a web page, not the file", d.url)}
	}
	if whole && d.have > 0 { // a server that knows no ranges
		if err := d.restart(f); err != nil {
			return final{err}
		}
		d.begin()
	}

	buf := make([]byte, fetchPiece)
	for d.have < d.Bytes {
		n, err := response.Body.Read(buf[:min(int64(len(buf)), d.Bytes-d.have)])
		watch.Reset(stalled)
		if n > 0 {
			wrote, err := f.Write(buf[:n])
			before := d.have
			d.have += int64(wrote)
			d.progress.Advance(int(d.have/megabyte-before/megabyte), "")
			if err != nil {
				return final{fmt.Errorf("%w; %d of %d bytes are kept, and the same command goes on from there", err, d.have, d.Bytes)}
			}
		}
		if err == io.EOF && d.have < d.Bytes {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && d.have < d.Bytes {
			return because(ctx, fmt.Errorf("%s: %w", d.url, err))
		}
	}
	return nil
}

// rest tells whether a Content-Range begins where the part ends. A server may leave the length of the whole open ("*"), and
// send less than the rest.
func (d *download) rest(contentRange string) bool {
	span, whole, ok := strings.Cut(contentRange, "/")
	start, _, cut := strings.Cut(span, "-")
	return ok && cut && start == fmt.Sprint("bytes ", d.have) && (whole == "*" || whole == fmt.Sprint(d.Bytes))
}

// because is why a context ended, where that is why err came about.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
