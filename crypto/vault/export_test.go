package vault

// ConfirmationOf makes a confirmation from its parts.
func ConfirmationOf(bound, hello, secret, number []byte) Confirmation {
	return (&transcript{bound, hello}).confirmation(secret, number)
}
