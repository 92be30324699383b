package dsn

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
)

func TestDSN(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:4000")
	pg := Database{
		Name: "rds:orders", Protocol: Postgres, Engine: "postgres", Listen: at, ServerName: "orders.x",
		Database: "sales",
	}
	named := pg
	named.Reaches, named.CA, named.User, named.Listen = true, "/ca's.pem", "ann",
		netip.MustParseAddrPort("127.64.0.1:5432")
	token := pg
	token.User, token.Password = "ann smith", "a/b?c=d&e"
	my := Database{
		Name: "rds:shop", Protocol: MySQL, Engine: "mariadb", Listen: at, ServerName: "shop.x",
		Database: "shop", User: "app",
	}
	mysql := my
	mysql.Engine = "mysql"
	mytoken := my
	mytoken.Password = "a/b?c=d&e"
	cache := Database{Name: "cache:a", Protocol: Redis, Engine: "redis", Listen: at, ServerName: "a.x"}
	secure := cache
	secure.TLS = true
	plain := Database{Name: "db:5432", Protocol: Postgres, Listen: at, ServerName: "db"}
	docs := Database{Name: "rds:docs", Protocol: Mongo, Engine: "docdb", Listen: at, ServerName: "docs.x"}
	web := Database{Name: "wiki:443", Listen: netip.MustParseAddrPort("[::1]:443"), ServerName: "wiki"}
	mssql := Database{
		Name: "rds:m", Protocol: SQLServer, Engine: "sqlserver-ex", Listen: at, ServerName: "m.x", Database: "a;b",
		User: "ann",
	}
	user := docs
	user.User, user.Database = "ann", "db"
	// A proxy of RDS and a cluster of DocumentDB that were named as hosts, and a token for one that nobody knows.
	proxy := Database{
		Name: "p:5432", Protocol: Postgres, Listen: at, ServerName: "app.proxy-abc123.eu-central-1.rds.amazonaws.com",
	}
	byHost := Database{
		Name: "d:27017", Protocol: Mongo, Listen: at, ServerName: "docs.cluster-abc123.docdb.cn-north-1.amazonaws.com.cn",
	}
	secret := plain
	secret.User, secret.Password = "ann", "token"
	chain := pg
	chain.CA = "/my ca.pem"
	tab := pg
	tab.Database = "a\tb"
	oracle := Database{Name: "rds:o", Engine: "oracle-ee", Listen: at, ServerName: "o.x"}
	for _, tt := range []struct {
		d            Database
		format, want string
	}{
		{pg, "uri", "postgresql://127.0.0.1:4000/sales?sslmode=require"},
		{pg, "jdbc", "jdbc:postgresql://127.0.0.1:4000/sales?sslmode=require"},
		{pg, "kv", "host=orders.x hostaddr=127.0.0.1 port=4000 dbname=sales sslmode=require"},
		{pg, "go", "postgresql://127.0.0.1:4000/sales?sslmode=require"},
		{pg, "python", "postgresql+psycopg://orders.x:4000/sales?hostaddr=127.0.0.1&sslmode=require"},
		{pg, "node", "postgresql://127.0.0.1:4000/sales?sslmode=no-verify"},
		{named, "uri", "postgresql://ann@orders.x:5432/sales?sslmode=verify-full&sslrootcert=%2Fca%27s.pem"},
		{named, "jdbc", "jdbc:postgresql://orders.x:5432/sales?sslmode=verify-full&sslrootcert=%2Fca%27s.pem&user=ann"},
		{named, "kv", `host=orders.x hostaddr=127.64.0.1 port=5432 dbname=sales user=ann sslmode=verify-full sslrootcert='/ca\'s.pem'`},
		{token, "uri", "postgresql://ann%20smith:a%2Fb%3Fc=d&e@127.0.0.1:4000/sales?sslmode=require"},
		{token, "jdbc", "jdbc:postgresql://127.0.0.1:4000/sales?sslmode=require&user=ann%20smith&password=a%2Fb%3Fc%3Dd%26e"},
		{token, "kv", "host=orders.x hostaddr=127.0.0.1 port=4000 dbname=sales user='ann smith' password=a/b?c=d&e sslmode=require"},
		{my, "uri", "mysql://app@127.0.0.1:4000/shop?ssl-mode=REQUIRED"},
		{my, "jdbc", "jdbc:mariadb://127.0.0.1:4000/shop?sslMode=trust&useSsl=true&trustServerCertificate=true&user=app"},
		{mysql, "jdbc", "jdbc:mysql://127.0.0.1:4000/shop?sslMode=REQUIRED&useSSL=true&trustServerCertificate=true&user=app"},
		{mytoken, "jdbc", "jdbc:mysql://127.0.0.1:4000/shop?sslMode=REQUIRED&useSSL=true&trustServerCertificate=true&user=app&password=a%2Fb%3Fc%3Dd%26e"},
		{my, "node", "mysql://app@127.0.0.1:4000/shop?ssl=%7B%22rejectUnauthorized%22%3Afalse%7D"},
		{my, "go", "app@tcp(127.0.0.1:4000)/shop?tls=skip-verify"},
		{my, "python", "mysql+pymysql://app@127.0.0.1:4000/shop?ssl_check_hostname=false"},
		{mytoken, "go", "app:a/b?c=d&e@tcp(127.0.0.1:4000)/shop?tls=skip-verify&allowCleartextPasswords=true"},
		{my, "kv", ""},
		{cache, "uri", "redis://127.0.0.1:4000"},
		{secure, "uri", "rediss://127.0.0.1:4000"},
		{secure, "jdbc", "jdbc:redis://127.0.0.1:4000/0?ssl=true&verifyServerCertificate=false"},
		{plain, "uri", "postgresql://127.0.0.1:4000/"},
		{docs, "uri", "mongodb://127.0.0.1:4000/?tls=true&tlsAllowInvalidCertificates=true&directConnection=true&retryWrites=false"},
		{docs, "go", "mongodb://127.0.0.1:4000/?tls=true&tlsInsecure=true&directConnection=true&retryWrites=false"},
		{user, "uri", "mongodb://ann@127.0.0.1:4000/db?tls=true&tlsAllowInvalidCertificates=true&directConnection=true&retryWrites=false&authSource=admin"},
		{proxy, "uri", "postgresql://127.0.0.1:4000/?sslmode=require"},
		{byHost, "uri", "mongodb://127.0.0.1:4000/?tls=true&tlsAllowInvalidCertificates=true&directConnection=true&retryWrites=false"},
		{secret, "uri", "postgresql://ann:token@127.0.0.1:4000/?sslmode=require"},
		{chain, "uri", "postgresql://127.0.0.1:4000/sales?sslmode=verify-ca&sslrootcert=%2Fmy%20ca.pem"},
		{chain, "node", "postgresql://127.0.0.1:4000/sales?uselibpqcompat=true&sslmode=verify-ca&sslrootcert=%2Fmy%20ca.pem"},
		{chain, "kv", "host=orders.x hostaddr=127.0.0.1 port=4000 dbname=sales sslmode=verify-full sslrootcert='/my ca.pem'"},
		{tab, "kv", "host=orders.x hostaddr=127.0.0.1 port=4000 dbname='a\tb' sslmode=require"},
		{secure, "node", ""},
		{secure, "go", "rediss://127.0.0.1:4000?skip_verify=true"},
		{secure, "python", "rediss://127.0.0.1:4000?ssl_cert_reqs=none&ssl_check_hostname=false"},
		{docs, "jdbc", ""},
		{mssql, "uri", "sqlserver://ann@127.0.0.1:4000?database=a%3Bb&encrypt=true&trustServerCertificate=true"},
		{mssql, "jdbc", "jdbc:sqlserver://127.0.0.1:4000;databaseName={a;b};encrypt=true;trustServerCertificate=true;user=ann"},
		{mssql, "python", ""},
		{mssql, "node", ""},
		{oracle, "uri", "tcp://127.0.0.1:4000"},
		{oracle, "jdbc", "jdbc:oracle:thin:@//127.0.0.1:4000/ORCL"},
		{web, "uri", "tcp://[::1]:443"},
		{web, "node", ""},
		{web, "python", ""},
	} {
		format := Formats()[slices.IndexFunc(Formats(), func(f Format) bool { return f.Name == tt.format })]
		got, ok := format.Of(tt.d)
		if !ok {
			got = ""
		}
		if got != tt.want {
			t.Errorf("%s of %s: %s, want %s", tt.format, tt.d.Name, got, tt.want)
		}
	}
	if got, _ := named.shell(); !strings.Contains(got, `export PGSSLROOTCERT='/ca'\''s.pem'`) {
		t.Errorf("env: %s", got)
	}
}

func TestProtocolOf(t *testing.T) {
	for _, tt := range []struct {
		engine string
		port   int
		want   Protocol
	}{
		{"aurora-postgresql", 1, Postgres},
		{"aurora-mysql", 1, MySQL},
		{"aurora", 1, MySQL},
		{"valkey", 1, Redis},
		{"sqlserver-web", 1, SQLServer},
		{"oracle-ee", 5432, ""},
		{"memcached", 6379, ""},
		{"", 5432, Postgres},
		{"", 3306, MySQL},
		{"", 443, ""},
	} {
		if got := ProtocolOf(tt.engine, tt.port); got != tt.want {
			t.Errorf("ProtocolOf(%q, %d) = %q, want %q", tt.engine, tt.port, got, tt.want)
		}
	}
}

func TestNew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte("127.64.0.1 orders.x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := config.Settings{Local: config.Local{HostsFile: file}}
	for listen, want := range map[string]string{
		"127.64.0.1:5432": "orders.x:5432",
		"127.64.0.2:5432": "127.64.0.2:5432",
		"127.0.0.1:5432":  "127.0.0.1:5432",
		"0.0.0.0:5432":    "127.0.0.1:5432",
		"[::]:5432":       "[::1]:5432",
	} {
		d, err := New("x", api.Forward{Listen: listen, Target: "Orders.x.:5432"}, s)
		if err != nil || !strings.EqualFold(d.addr(), want) {
			t.Errorf("%s: %s, %v, want %s", listen, d.addr(), err, want)
		}
	}
	for _, f := range []api.Forward{
		{},
		{Listen: "x"},
		{Listen: "127.0.0.1:1", Target: "x"},
		{Listen: "127.0.0.1:1", Target: "x:y"},
	} {
		if _, err := New("x", f, s); err == nil {
			t.Errorf("%+v was accepted", f)
		}
	}
}
