import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;

/** Connects by each URL of its arguments and prints a line for each: "ok", "ok encrypted" or the error. */
class Drivers {
    public static void main(String[] urls) {
        for (String url : urls) {
            boolean postgres = url.startsWith("jdbc:postgresql:");
            try (Connection c = DriverManager.getConnection(url);
                    ResultSet r = c.createStatement().executeQuery(postgres
                            ? "select ssl from pg_stat_ssl where pid = pg_backend_pid()" : "show status like 'Ssl_cipher'")) {
                r.next();
                System.out.println((postgres ? r.getBoolean(1) : !r.getString(2).isEmpty()) ? "ok encrypted" : "ok");
            } catch (Exception e) {
                Throwable t = e;
                StringBuilder all = new StringBuilder();
                for (; t != null; t = t.getCause()) {
                    all.append(t.toString().replace('\n', ' ')).append("; ");
                }
                System.out.println(all);
            }
        }
    }
}
