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
	OpRepeat              // publish content under a name that stands for the very same
	OpExtend              // publish content that begins with what the name stands for; same key, within the resume window
	OpOverwrite           // publish any other content under a taken name
	OpRemove              // drop a name that is not a directory's
	OpMkdir
	OpRmdir
	OpRename // move a name away (the target is asked about as create, repeat, extend or overwrite)
	OpLink   // a further name for a content (asked about the content's present name)
	OpSymlink
	OpMknod
	OpSetTimes // modification and access time
	OpSetMeta  // mode, owner, attributes
	OpTighten  // attributes, where nothing changes or only write permission is dropped
	OpTruncate // change a length by path
	OpReplace  // a new generation of a managed file
	numOps
)

var opNames = [numOps]string{"read", "stat", "list", "hash", "create", "repeat", "extend", "overwrite", "remove", "mkdir",
	"rmdir", "rename", "link", "symlink", "mknod", "settimes", "setstat", "setstat", "truncate", "replace"}

func (o Op) String() string { return opNames[o] }
