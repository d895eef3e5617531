package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/cluster"
	"github.com/weft-im/weft/homeserver/config"
)

const registerPath = "/_synapse/admin/v1/register"

// registerCommand makes an account with the registration_shared_secret, also where registration is closed.
func registerCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("register", "(-c FILE | --shared-secret SECRET) -u USER (-p PASSWORD | --password-file FILE) [--admin] [URL]", stderr)
	configs := configFlag(fs)
	secret := fs.String("shared-secret", "", "the registration_shared_secret, instead of -c")
	fs.StringVar(secret, "k", "", "the same as --shared-secret")
	var req account.SharedSecretRequest
	for _, name := range []string{"u", "user"} {
		fs.StringVar(&req.Username, name, "", "the new account's localpart")
	}
	for _, name := range []string{"p", "password"} {
		fs.StringVar(&req.Password, name, "", "its password; others on the machine see it, better use --password-file")
	}
	passwordFile := fs.String("password-file", "", "`file` with the password; - is standard input")
	for _, name := range []string{"a", "admin"} {
		fs.BoolVar(&req.Admin, name, false, "make a server administrator")
	}
	notAdmin := fs.Bool("no-admin", false, "make an ordinary user, as is the default")
	userType := fs.String("user-type", "", "bot or support, or nothing")
	urls, err := parse(fs, args)
	if err != nil {
		return err
	}
	if *notAdmin && req.Admin {
		return usageError("--admin and --no-admin exclude each other")
	}
	if len(urls) > 1 {
		return usageError("expected one URL")
	}
	url := "http://127.0.0.1:8008"
	if len(urls) == 1 {
		url = urls[0]
	}
	if *secret == "" && len(*configs) > 0 {
		cfg, err := config.Load(*configs...)
		if err != nil {
			return err
		}
		*secret = cfg.RegistrationSharedSecret.Reveal()
	}
	if *secret == "" {
		return usageError("no shared secret: give --shared-secret, or -c FILE that has registration_shared_secret")
	}
	if *passwordFile != "" {
		if req.Password, err = readPassword(*passwordFile); err != nil {
			return err
		}
	}
	if req.Username == "" || req.Password == "" {
		return usageError("a user (-u) and a password (-p, --password-file) are required")
	}
	if *userType != "" {
		req.UserType = userType
	}
	req.InhibitLogin = true
	client, base := cluster.HTTPClient(strings.TrimRight(url, "/"))
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := call(ctx, client, http.MethodGet, base+registerPath, nil, &nonce); err != nil {
		return err
	}
	req.Nonce = nonce.Nonce
	req.MAC = account.SharedSecretMAC(*secret, req)
	var made struct {
		UserID string `json:"user_id"`
	}
	if err := call(ctx, client, http.MethodPost, base+registerPath, req, &made); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "registered %s\n", made.UserID)
	return err
}

func readPassword(path string) (string, error) {
	var b []byte
	var err error
	if path == "-" {
		b, err = io.ReadAll(os.Stdin)
	} else {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// call makes one JSON request. The error of an answer other than 200 has the server's errcode and text.
func call(ctx context.Context, client *http.Client, method, url string, body, into any) error {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s %s: %w", method, url, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	if resp.StatusCode != http.StatusOK {
		var e struct {
			Code  string `json:"errcode"`
			Error string `json:"error"`
		}
		_ = json.Unmarshal(answer, &e) // a proxy's page says nothing beyond its status
		return fmt.Errorf("%s %s: %d %s %s", method, url, resp.StatusCode, cmp.Or(e.Code, http.StatusText(resp.StatusCode)), e.Error)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s %s: read answer: %w", method, url, err)
	}
	return nil
}
