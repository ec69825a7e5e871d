-- Fractional keys.
.load ./rejoin
SELECT quote(crsql_fract_key_between(NULL, NULL));
SELECT crsql_fract_key_between(NULL, 'a0'), crsql_fract_key_between('a0', NULL), crsql_fract_key_between('a0', 'a1');
SELECT crsql_fract_key_between('a0', 'a0V') < 'a0V', crsql_fract_key_between('a0', 'a0V') > 'a0';
SELECT crsql_fract_key_between('a1', 'a0');
