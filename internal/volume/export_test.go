package volume

// DisableOpenat2 makes v walk component by component.
func DisableOpenat2(v *Volume) { v.noOpenat2 = true }

// DisableRenameFlags makes v behave as on a file system without RENAME_NOREPLACE.
func DisableRenameFlags(v *Volume) { v.noFlags.Store(true) }

// DisableCopy makes v copy by reading and writing.
func DisableCopy(v *Volume) { v.noCopy = true }

// FromFakeSuper and FakeSuper read and write attributes.
var (
	FromFakeSuper = fromFakeSuper
	FakeSuper     = fakeSuper
)
