package appendonly

// Op is what a client asks for, in the words of logs, metrics and refusals.
type Op uint8

// The operations on which Decide rules.
const (
	OpRead      Op = iota // read content
	OpStat                // attributes of one name, link targets
	OpList                // names in a directory
	OpHash                // a digest of content, computed here
	OpCreate              // publish content under a free name
	OpOverwrite           // publish content under a taken name
	OpRemove              // drop a name that is not a directory's
	OpMkdir
	OpRmdir
	OpRename // move a name away (the target is asked about as create or overwrite)
	OpLink   // a further name for a content
	OpSymlink
	OpMknod
	OpSetMeta  // mode, owner, times, attributes
	OpTruncate // change a length by path
	OpReplace  // a new generation of a managed file
	numOps
)

var opNames = [...]string{"read", "stat", "list", "hash", "create", "overwrite", "remove", "mkdir", "rmdir",
	"rename", "link", "symlink", "mknod", "setstat", "truncate", "replace"}

func (o Op) String() string { return opNames[o] }
