package zfshelper

import (
	"context"
	"maps"
	"slices"
)

// VerbsFor are the names of what a user may ask for.
func (s *Server) VerbsFor(uid uint32) []string {
	return slices.Sorted(maps.Keys(s.table(context.Background(), uid)))
}
