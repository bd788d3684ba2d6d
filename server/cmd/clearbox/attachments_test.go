package main

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox/storage/blob"
)

func TestDoctorCountsAttachments(t *testing.T) {
	dir := t.TempDir()
	if got := attachments(dir + "/none"); got != "" {
		t.Errorf("no folder: %q", got)
	}
	if got := attachments(dir); got != "" {
		t.Errorf("no attachment: %q", got)
	}
	blobs, err := blob.Open(dir, blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"; one attachment takes 9MiB", "; 2 attachments take 18MiB"} {
		if _, err := blobs.Append(blob.Name{byte(i)}, 0, 9<<20, bytes.NewReader(make([]byte, 9<<20))); err != nil {
			t.Fatal(err)
		}
		if got := attachments(dir); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
