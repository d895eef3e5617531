// Package federationtest has several homeservers federate in one test, over TLS with an authority of the test's own: whole
// ones, each with its own database and as many processes as it is to have, and fakes that a test drives by hand.
//
//	n := federationtest.New(t)
//	a := n.Start(t, federationtest.Config{Groups: groups})
//	b := n.Start(t, federationtest.Config{Groups: groups, Workers: workers})
//	f := n.Fake(t)
//	f.Handle("GET /_matrix/federation/v1/query/profile", answer)
//	status, body := f.Do(t, a.Name, "PUT", "/_matrix/federation/v1/send/1", transaction)
//
// Servers are named after where they listen, "localhost:12345", so that they find each other without DNS.
package federationtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Network is servers that trust one certificate authority.
type Network struct {
	// CAFile is the PEM file of the authority.
	CAFile string
	roots  *x509.CertPool
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
}

// New makes a network without servers.
func New(tb testing.TB) *Network {
	tb.Helper()
	n := &Network{CAFile: filepath.Join(tb.TempDir(), "ca.crt"), roots: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "federationtest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	n.caKey, der = issue(tb, template, template, nil)
	var err error
	if n.ca, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	n.roots.AddCert(n.ca)
	if err := os.WriteFile(n.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
	return n
}

// issue makes a key and a certificate for it; without a parent's key it signs itself.
func issue(tb testing.TB, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		tb.Fatal(err)
	}
	return key, der
}

// Certificate returns a certificate of the authority for DNS names and IP addresses.
func (n *Network) Certificate(tb testing.TB, hosts ...string) tls.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	key, der := issue(tb, template, n.ca, n.caKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Roots returns the authority, for clients of the servers.
func (n *Network) Roots() *x509.CertPool { return n.roots }
