package push

import "log/slog"

// Attrs are the event's fields in the line that the log has of its session; docs/logs.md tells them. Who it was of is with the logger.
// A session that only read has those of reading alone.
func (e *Event) Attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("key", e.Key), slog.String("protocol", e.Protocol), slog.Duration("duration", e.Duration), slog.Int("exit", e.Exit)}
	if e.Push {
		attrs = append(attrs, slog.String("result", string(e.Result)), slog.Bool("restorable", e.Restorable))
		if e.Why != "" {
			attrs = append(attrs, slog.String("why", e.Why))
		}
		for _, w := range []struct {
			name string
			work Work
		}{{"new", e.New}, {"unchanged", e.Unchanged}, {"refused", e.Refused}, {"failed", e.Failed}, {"retired", e.Retired}} {
			attrs = append(attrs, slog.Int64(w.name+"_files", w.work.Files), slog.Int64(w.name+"_bytes", w.work.Bytes))
		}
		attrs = append(attrs, slog.Int64("dirs", e.Dirs))
	}
	attrs = append(attrs, slog.Int64("read_files", e.Read.Files), slog.Int64("read_bytes", e.Read.Bytes),
		slog.Int64("received_bytes", e.Received), slog.Int64("sent_bytes", e.Sent))
	if n := e.Denials(); n > 0 {
		attrs = append(attrs, slog.Int64("denied", n))
	}
	return attrs
}
