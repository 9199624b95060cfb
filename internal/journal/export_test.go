package journal

// What tests of the formats need.
var (
	AppendLine  = appendLine
	ParseLine   = parseLine
	DecodeEntry = decodeEntry
	SegmentName = segmentName
	Link        = link
)

// Encode is the index's form of e.
func (e *Entry) Encode() []byte { return e.append(nil) }
